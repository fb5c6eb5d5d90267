"""Workers of the daemon's own spawner: real ones, forked from a template that has real torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.daemon import until
from zhcache.errors import VersionMismatch, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol.residency import Failed, Fill, FromFillWorker
from zhcached.residency.launch import hired, launch, template

pytest.importorskip("torch", reason="torch is not installed")

WAIT_S = 60.0


def made(home: Path) -> launch.Direct:
    for part in ("hub", "blobs"):
        (home / part).mkdir(parents=True)
    return launch.Direct(home)


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_secret")
        launcher = made(tmp_path_factory.mktemp("direct"))
        launcher.prepare()
        launcher.prepare()
        yield launcher
        launcher.close()


@pytest.fixture
def workers(direct):
    """Returns a function that launches; all that it launched is ended afterwards."""
    launched = []

    def start(kind="fill"):
        launched.append(direct.launch(kind, "a test"))
        return launched[-1]

    yield start
    for worker in launched:
        worker.kill()
        worker.wait(WAIT_S)
        worker.line.close()


def lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def is_gone(pid: int) -> bool:
    return until(lambda: not lives(pid), f"process {pid} has ended", WAIT_S)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_are_forks_of_one_process_that_was_prepared_and_imported_torch(workers, direct):
    prepared = direct._template._child
    assert prepared is not None
    first, second = workers(), workers("resident")
    assert parent_of(first.pid) == parent_of(second.pid) == prepared.pid
    torch = "libtorch"
    assert torch in Path(f"/proc/{second.pid}/maps").read_text()
    # A program of its own would be named by its own command line.
    assert "spawner" in Path(f"/proc/{second.pid}/cmdline").read_text()


def test_worker_ends_by_itself_when_its_line_is_closed(workers):
    worker = workers()
    worker.line.close()
    assert worker.wait(WAIT_S) == "ended with status 0"


def test_worker_that_runs_has_no_end(workers):
    assert workers().wait(0.05) is None


def test_killed_worker_is_gone_and_its_line_ends(workers):
    worker = workers()
    worker.kill()
    assert worker.line.recv(1) == b""
    assert worker.wait(WAIT_S) == "was ended by the daemon"
    assert not lives(worker.pid)
    worker.kill()


def test_worker_that_dies_says_how(workers):
    worker = workers()
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.wait(WAIT_S).startswith("was killed by SIGKILL")


def test_worker_has_a_folder_of_its_own_that_ends_with_it(workers, direct):
    worker = workers()
    scratch = direct._template._home / "scratch"
    assert len(list(scratch.glob("worker-*"))) == 1
    worker.kill()
    worker.wait(WAIT_S)
    until(lambda: not list(scratch.glob("worker-*")), "its folder is gone", WAIT_S)


def test_worker_began_without_the_daemons_token(workers):
    worker = workers()
    for pid in (worker.pid, parent_of(worker.pid)):
        assert b"hf_secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_worker_does_what_its_first_frame_says(workers, tmp_path):
    worker = workers()
    frames.send(worker.line, Fill(folder=str(tmp_path), components=["unet"], device="cpu"))
    while not isinstance(answer := frames.receive(worker.line, FromFillWorker)[0], Failed):
        pass
    assert answer.error.message


def test_many_threads_launch_at_once(direct):
    found, faults = [], []

    def one():
        try:
            worker = direct.launch("fill", "one of many")
        except ZhcacheError as error:
            faults.append(error)
            return
        found.append(worker.pid)
        worker.kill()
        assert worker.wait(WAIT_S)
        worker.line.close()

    threads = [threading.Thread(target=one) for _ in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(WAIT_S)
    assert (len(set(found)), faults) == (12, [])


def test_spawners_death_takes_its_workers_and_the_next_one_takes_its_place_once_it_can(
    workers, direct, tmp_path, monkeypatch
):
    worker = workers()
    spawner = parent_of(worker.pid)
    broken = tmp_path / "torch.py"
    broken.write_text("raise ImportError('libcudart.so.99: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    os.kill(spawner, signal.SIGKILL)
    assert worker.wait(WAIT_S) == hired.LOST
    assert is_gone(worker.pid)
    with pytest.raises(ZhcacheError, match=r"libcudart\.so\.99"):
        workers()
    # Mended without a restart of whoever launches.
    broken.unlink()
    ending = direct._template._child
    until(lambda: ending.poll() is not None, "the template has ended", WAIT_S)
    again = workers()
    assert parent_of(again.pid) not in (spawner, ending.pid)
    again.line.close()
    assert again.wait(WAIT_S) == "ended with status 0"


def test_other_build_is_refused(workers, monkeypatch):
    monkeypatch.setattr(launch, "__version__", "0.0.0")
    with pytest.raises(VersionMismatch, match=r"0\.0\.0"):
        workers()


def test_missing_torch_is_told_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(template, "NEEDS", ("torch", "no_such_package"))
    launcher = made(tmp_path)
    launcher.prepare()
    with pytest.raises(ZhcacheError, match="no_such_package") as caught:
        launcher.launch("fill", "x")
    assert "pip install 'zhcache[daemon,torch]'" in caught.value.hint


def test_template_with_a_thread_starts_programs_of_their_own(tmp_path, monkeypatch):
    agent = tmp_path / "site" / "sitecustomize.py"
    agent.parent.mkdir()
    agent.write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(agent.parent))
    launcher = made(tmp_path / "home")
    try:
        worker = launcher.launch("fill", "x")
        command = Path(f"/proc/{worker.pid}/cmdline").read_text().split("\0")
        assert "spawner" not in command
        worker.line.close()
        assert worker.wait(WAIT_S) == "ended with status 0"
    finally:
        launcher.close()


DAEMON = """
import sys, time
from pathlib import Path
from zhcached.residency.launch.launch import Direct
worker = Direct(Path(sys.argv[1])).launch("resident", "x")
print(worker.pid, flush=True)
time.sleep(600)
"""


def test_workers_and_spawner_die_with_a_killed_daemon(tmp_path):
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with daemon:
        said = iter(daemon.stdout.readline, "")
        pid = int(next(line for line in said if line.strip().isdigit()))
        spawner = parent_of(pid)
        daemon.kill()
        daemon.wait(WAIT_S)
        assert is_gone(pid)
        assert is_gone(spawner)
    assert not list((tmp_path / "scratch").glob("worker-*"))
