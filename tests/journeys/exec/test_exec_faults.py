"""``zhcache exec`` when processes are killed, meet each other, or find a stranger."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemon import until
from harness.sidebyside import Pair, clean_environ
from zhcache.forkserver.start import MAX_SERVERS

pytestmark = pytest.mark.journey

WAIT = (
    "import os, sys, time\nprint(os.getpid(), os.getppid(), flush=True)\n"
    "for line in sys.stdin: print('got', line.strip(), flush=True)\nsys.exit(7)"
)


# What a server imports takes ten seconds, and is no matter where nobody uses it.
SMALL = {
    "torch": """
class version: cuda = None
class cuda: is_initialized = staticmethod(lambda: False)
class default_generator: seed = staticmethod(lambda: 0)
""",
    "safetensors": "",
    "safetensors.torch": "",
    "huggingface_hub": "",
    "tokenizers": "",
    "transformers": "CLIPTokenizer = CLIPTextModel = T5EncoderModel = object",
    "accelerate": "",
    "diffusers": """
AutoencoderKL = UNet2DConditionModel = DiffusionPipeline = object
StableDiffusionPipeline = StableDiffusionXLPipeline = object
""",
}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Pair]:
    """A pair whose server is no other test's."""
    folder = Path(tempfile.mkdtemp(prefix="zhx-"))
    yield Pair(tmp_path, clean_environ(folder))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A pair whose server is these tests' and has imported little."""
    folder = Path(tempfile.mkdtemp(prefix="zhx-"))
    small = tmp_path_factory.mktemp("small")
    for name, text in SMALL.items():
        package = small.joinpath(*name.split("."))
        package.mkdir()
        (package / "__init__.py").write_text(text)
    environ = clean_environ(folder) | {"PYTHONPATH": str(small)}
    yield Pair(tmp_path_factory.mktemp("together"), environ)
    shutil.rmtree(folder)


class Running:
    """A script that waits for lines, and the processes around it."""

    def __init__(self, pair: Pair) -> None:
        self.process = subprocess.Popen(
            [*pair.zhcache, pair.script(WAIT)],
            cwd=pair.folder,
            env=pair.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said, self.process.communicate()[1]
        self.script, self.keeper = map(int, said)
        self.server = parent_of(self.keeper)

    def ask(self, text: str) -> str:
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


@pytest.fixture
def running(together: Pair) -> Iterator[Running]:
    started = Running(together)
    yield started
    started.process.kill()
    started.process.communicate()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_server_that_is_killed_ends_no_script(running: Running, together: Pair) -> None:
    os.kill(running.server, signal.SIGKILL)
    until(lambda: not is_there(running.server), "the server is gone")
    assert running.ask("still there") == "got still there\n"
    out, err = running.process.communicate("")
    assert (running.process.returncode, out, err) == (7, "", "")
    # And the next client starts the next server over the dead one's socket.
    assert together.run(together.zhcache, ["-c", "print(1)"]).stdout == b"1\n"


def test_client_that_is_killed_ends_the_script(running: Running) -> None:
    running.process.kill()
    until(lambda: not is_there(running.script), "the script is gone")
    until(lambda: not is_there(running.keeper), "its keeper is gone")
    assert is_there(running.server)


def test_stopped_script_ends_with_its_client(running: Running) -> None:
    os.kill(running.script, signal.SIGSTOP)
    until(lambda: state_of(running.process.pid) == "T", "the client has stopped as well")
    running.process.kill()
    until(lambda: not is_there(running.script), "the script is gone")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_keeper_that_is_killed_ends_both_with_a_clear_error(running: Running) -> None:
    os.kill(running.keeper, signal.SIGKILL)
    out, err = running.process.communicate()
    assert (running.process.returncode, out) == (1, "")
    assert "killed" in err and "Traceback" not in err
    until(lambda: not is_there(running.script), "the script is gone")


def test_script_that_is_killed_ends_the_client_by_the_same_signal(running: Running) -> None:
    os.kill(running.script, signal.SIGKILL)
    running.process.communicate()
    assert running.process.returncode == -signal.SIGKILL


def test_keeper_that_is_killed_at_any_moment_runs_no_script_twice(alone: Pair) -> None:
    alone.run(alone.zhcache, ["-c", "pass"])
    mark = alone.folder / "ran"
    code = (
        "import os, signal; os.close(os.open('ran', os.O_CREAT | os.O_EXCL))\n"
        "os.kill(os.getppid(), signal.SIGKILL); signal.pause()"
    )
    for _ in range(10):
        ours = alone.run(alone.zhcache, ["-c", code])
        assert (ours.returncode, b"killed" in ours.stderr) == (1, True)
        mark.unlink()


def test_server_started_under_a_low_soft_limit_serves_more(alone: Pair) -> None:
    def exec_under(shell: str) -> subprocess.CompletedProcess[bytes]:
        line = f'{shell} exec {" ".join(alone.zhcache)} -c "import os; os.fstat(7)"'
        return alone.run(["bash", "-c"], [line])

    few = exec_under("ulimit -S -n 64; exec 7>/dev/null;")
    assert few.returncode == 0, few.stderr
    many = exec_under("exec 7>/dev/null 200>/dev/null;")
    assert many.returncode == 0, many.stderr
    assert len(list(Path(alone.environ["XDG_RUNTIME_DIR"]).rglob("*.sock"))) == 1


def test_two_clients_at_once_share_one_server(alone: Pair) -> None:
    def start():
        return subprocess.Popen(
            [*alone.zhcache, "-c", "import os; print(os.getppid()); input()"],
            env=alone.environ,
            cwd=alone.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    clients = [start() for _ in range(4)]
    servers = {parent_of(int(client.stdout.readline())) for client in clients}
    for client in clients:
        client.communicate("\n")
    assert len(servers) == 1
    assert [client.returncode for client in clients] == [0] * 4


def test_client_that_is_killed_while_the_server_starts_leaves_it_to_the_next(alone: Pair) -> None:
    first = subprocess.Popen([*alone.zhcache, "-c", "print('first')"], env=alone.environ)
    runtime = Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec"
    until(lambda: list(runtime.glob("*.lock")), "a server is starting")
    first.kill()
    first.wait()
    assert alone.run(alone.zhcache, ["-c", "print('second')"]).stdout == b"second\n"
    assert len(list(runtime.glob("*.lock"))) == 1


def test_ctrl_c_while_the_server_starts_is_an_interrupt(alone: Pair) -> None:
    first = subprocess.Popen(
        [*alone.zhcache, "-c", "pass"], env=alone.environ, stderr=subprocess.PIPE
    )
    runtime = Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec"
    until(lambda: list(runtime.glob("*.lock")), "a server is starting")
    first.send_signal(signal.SIGINT)
    assert b"Traceback" not in first.communicate()[1]
    assert first.returncode == 130


def test_server_is_replaced_when_a_file_it_imported_changes(alone: Pair) -> None:
    # An optional module that the imports look for, on a path of our own.
    package = alone.folder / "lib"
    package.mkdir()
    (package / "brotlicffi.py").write_text("error = OSError\nwhich = 1")
    env = {"PYTHONPATH": str(package)}
    show = [
        "-c",
        "import brotlicffi, os; print(brotlicffi.which, os.getppid())\n"
        "print(open(f'/proc/{os.getppid()}/stat').read().split()[3])",
    ]
    first = alone.run(alone.zhcache, show, env=env).stdout.split()
    assert alone.run(alone.zhcache, show, env=env).stdout.split()[2] == first[2]
    (package / "brotlicffi.py").write_text("error = OSError\nwhich = 22")
    second = alone.run(alone.zhcache, show, env=env).stdout.split()
    assert (first[0], second[0]) == (b"1", b"22")
    assert second[2] != first[2]


def test_server_whose_socket_was_swept_away_makes_room(alone: Pair) -> None:
    runtime = Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec"
    show = ["-c", "import os; print(open(f'/proc/{os.getppid()}/stat').read().split()[3])"]
    first = int(alone.run(alone.zhcache, show).stdout)
    for path in runtime.iterdir():
        path.unlink()
    second = int(alone.run(alone.zhcache, show).stdout)
    assert second != first
    until(lambda: not is_there(first), "the first server is gone")


def test_idle_server_ends(alone: Pair) -> None:
    show = ["-c", "import os; print(open(f'/proc/{os.getppid()}/stat').read().split()[3])"]
    pid = int(alone.run(alone.zhcache, show, env={"ZHCACHE_EXEC_IDLE": "0.5"}).stdout)
    until(lambda: not is_there(pid), "the server is gone")


def test_socket_of_a_stranger_is_refused(alone: Pair) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    alone.run(alone.zhcache, ["-c", "pass"])
    runtime = Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec"
    (path,) = runtime.glob("*.sock")
    path.unlink()
    code = (
        "import os, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\n"
        "os.setuid(4242)\ns.listen()\nprint(1, flush=True)\ns.accept(); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stranger:
        assert stranger.stdout.readline() == b"1\n"
        ours = alone.run(alone.zhcache, ["-c", "print('never')"])
        stranger.kill()
    assert (ours.returncode, ours.stdout) == (8, b"")
    assert b"4242" in ours.stderr


def test_client_of_another_user_is_refused(together: Pair) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be two users")
    together.run(together.zhcache, ["-c", "pass"])
    runtime = Path(together.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec"
    (path,) = runtime.glob("*.sock")
    # Even if the folder were open, and the socket with it.
    opened = {place: place.stat().st_mode for place in (runtime.parent, runtime, path)}
    for place in opened:
        place.chmod(0o777)
    code = (
        "import os, socket, sys\nos.setgroups([]); os.setuid(4242)\n"
        "s = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(s.recv(1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, check=False, timeout=30
    )
    for place, mode in opened.items():
        place.chmod(mode)
    assert done.stdout == b"b''\n" or b"ConnectionResetError" in done.stderr


@pytest.mark.parametrize("spoiled", ["open", "link", "file"])
def test_folder_that_is_not_ours_alone_is_refused(alone: Pair, spoiled: str) -> None:
    path = Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec"
    if spoiled == "open":
        path.mkdir()
        path.chmod(0o755)
    elif spoiled == "link":
        (alone.folder / "theirs").mkdir(mode=0o700)
        path.symlink_to(alone.folder / "theirs")
    else:
        path.touch()
    ours = alone.run(alone.zhcache, ["-c", "print('never')"])
    assert (ours.stdout, ours.returncode) in {(b"", 8), (b"", 1)}
    assert b"zhcache-exec" in ours.stderr and b"Traceback" not in ours.stderr


def test_garbage_on_the_socket_harms_nobody(alone: Pair) -> None:
    alone.run(alone.zhcache, ["-c", "pass"])
    (path,) = (Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec").glob("*.sock")
    silent = []
    for said in (b"", b"\0\0\0\5{}{}{", b"\xff" * 99, b"\0\0\0\2{}", None):
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(path))
        if said is None:
            silent.append(line)
            continue
        line.sendall(said)
        line.close()
    assert alone.run(alone.zhcache, ["-c", "print(1)"]).stdout == b"1\n"
    for line in silent:
        line.close()


def is_free(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_stale_socket_is_replaced(alone: Pair) -> None:
    alone.run(alone.zhcache, ["-c", "pass"], env={"ZHCACHE_EXEC_IDLE": "0.1"})
    (path,) = (Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec").glob("*.sock")
    # Not by a connection: that is a client, which the server would stay for.
    until(lambda: is_free(path.with_suffix(".lock")), "the server has ended")
    assert not listens(path)
    assert path.exists()
    assert alone.run(alone.zhcache, ["-c", "print(1)"]).stdout == b"1\n"


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as line:
        return line.connect_ex(str(path)) == 0


def test_folder_terminal_and_shell_of_the_caller_make_no_other_server(alone: Pair) -> None:
    # A library that copies the whole environment while it is imported has read none of these.
    show = ["-c", "import os; print(open(f'/proc/{os.getppid()}/stat').read().split()[3])"]
    told = {"PWD": "/one", "SHLVL": "1", "SSH_CLIENT": "10.0.0.1 2 3", "LAB_NOTE": "x"}
    other = {"PWD": "/two", "SHLVL": "2", "SSH_CLIENT": "10.0.0.4 5 6", "LAB_NOTE": "y"}
    assert len({alone.run(alone.zhcache, show, env=env).stdout for env in (told, other)}) == 1


def test_servers_are_few_and_the_one_unused_for_longest_goes(alone: Pair) -> None:
    place = Path(alone.environ["XDG_RUNTIME_DIR"]) / "zhcache-exec"
    place.mkdir(mode=0o700)
    for age in range(5):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place / f"{age}.sock"))
        os.utime(place / f"{age}.sock", (1000 - age, 1000 - age))
    alone.run(alone.zhcache, ["-c", "pass"])
    left = {path.name for path in place.glob("*.sock")}
    assert {"0.sock", "1.sock", "2.sock"} < left
    assert len(left) == MAX_SERVERS
