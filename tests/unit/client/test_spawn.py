"""Starting a daemon: a package named ``zhcached`` that runs the simulator stands in for ours."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zhcache import spawn
from zhcache.client import Client
from zhcache.errors import AlreadyRunning, DaemonUnreachable

ROOT = Path(__file__).parents[3]
STAND_IN = """
import fcntl, os, signal, sys
from pathlib import Path
home, socket = Path(sys.argv[2]), Path(sys.argv[4])
if os.environ.get("STAND_IN") == "die":
    sys.exit("the store is on the moon")
home.mkdir(exist_ok=True)
lock = (home / "lock").open("a+")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(print("another daemon has the store") or 5)
from simulators.daemon import DaemonSimulator
with DaemonSimulator(socket, home):
    (home / "pids").open("a").write(f"{os.getpid()} {os.getsid(0)}\\n")
    signal.pause()
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store root whose daemon is the stand-in; whatever was started is ended."""
    package = tmp_path / "modules" / "zhcached"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    modules = [package.parent, ROOT, ROOT / "tests"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, modules)))
    home = tmp_path / "home"
    monkeypatch.setenv("ZHCACHE_HOME", str(home))
    monkeypatch.delenv("ZHCACHE_SOCKET", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    yield home
    for child in spawn._started:
        child.kill()
        child.wait()
    spawn._started.clear()


def test_first_call_starts_a_daemon_in_a_session_of_its_own(home: Path) -> None:
    with Client() as client:
        assert client.snapshots() == []
        pid, session = (home / "pids").read_text().split()
        assert pid == session
        assert int(pid) == client.version().pid


def test_daemons_started_at_once_become_one(home: Path) -> None:
    clients = [Client() for _ in range(3)]
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda c=client: seen.append(c.version().pid)) for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for client in clients:
        client.close()
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert len((home / "pids").read_text().splitlines()) == 1


def test_a_daemon_that_dies_is_reported_with_its_last_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "die")
    with Client() as client, pytest.raises(DaemonUnreachable, match="on the moon") as caught:
        client.snapshots()
    assert str(home / "logs" / "daemon.log") in caught.value.hint


def test_a_store_that_another_daemon_holds_elsewhere_is_already_running(home: Path) -> None:
    elsewhere = home.parent / "elsewhere.sock"
    spawn.start_daemon(home, elsewhere)
    with pytest.raises(AlreadyRunning):
        spawn.start_daemon(home, home / "api.sock", deadline_s=1.0)


def test_no_daemon_is_started_when_a_socket_is_configured(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZHCACHE_SOCKET", str(home / "mine.sock"))
    with Client() as client, pytest.raises(DaemonUnreachable):
        client.snapshots()
    assert not home.exists()


def test_no_daemon_is_started_when_it_is_forbidden(home: Path) -> None:
    with Client(spawn=False) as client, pytest.raises(DaemonUnreachable):
        client.snapshots()
    assert not home.exists()


def test_missing_parts_name_the_one_install_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "_NEEDS", ("zhcached", "no_such_module_anywhere"))
    with Client() as client, pytest.raises(DaemonUnreachable) as caught:
        client.snapshots()
    assert "no_such_module_anywhere" in caught.value.message
    assert caught.value.hint == "pip install 'zhcache[daemon]'"
    assert not home.exists()


def test_a_spawned_daemon_survives_the_clients_interrupt(home: Path) -> None:
    script = "import zhcache; print(zhcache.Client().version().pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        os.killpg(user.pid, signal.SIGINT)
        user.wait(10)
    try:
        with Client(spawn=False) as client:
            assert client.version().pid == pid
    finally:
        os.kill(pid, signal.SIGKILL)
