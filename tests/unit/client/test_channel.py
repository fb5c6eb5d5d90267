"""The way to the daemon: long paths, stale sockets, strangers, versions, errors."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.daemon import until
from simulators.daemon import DaemonSimulator
from zhcache.client import Client
from zhcache.errors import (
    Busy,
    DaemonUnreachable,
    NotFound,
    NotPermitted,
    VersionMismatch,
    ZhcacheError,
)


def test_channel_reaches_a_socket_whose_path_is_too_long_for_the_kernel(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d" * 60] * 3)
    with DaemonSimulator(folder / "api.sock") as simulator, Client(simulator.socket) as client:
        assert len(str(simulator.socket)) > 107
        assert client.snapshots() == []


def test_channel_says_unreachable_when_the_socket_is_absent(tmp_path: Path) -> None:
    with Client(tmp_path / "api.sock") as client, pytest.raises(DaemonUnreachable) as caught:
        client.snapshots()
    assert caught.value.exit_code == 5
    assert str(tmp_path) in caught.value.message


def test_channel_says_unreachable_when_the_socket_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    with Client(path) as client, pytest.raises(DaemonUnreachable, match="refused"):
        client.snapshots()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as somebody else")
def test_channel_refuses_a_socket_served_by_a_stranger(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        child = os.fork()
        if child == 0:
            # The kernel notes who listens, not who binds.
            os.setresuid(65534, 65534, 65534)
            listener.listen()
            while True:
                listener.accept()
        try:
            with Client(path) as client, pytest.raises(NotPermitted, match="65534"):
                _until_it_listens(client)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _until_it_listens(client: Client) -> None:
    def answers() -> bool:
        try:
            client.snapshots()
        except DaemonUnreachable:
            return False
        return True

    until(answers, "somebody listens")


def test_channel_refuses_a_daemon_of_another_protocol(
    daemon: DaemonSimulator, client: Client
) -> None:
    daemon.protocol_range = (7, 9)
    with pytest.raises(VersionMismatch, match="7 to 9") as caught:
        client.snapshots()
    assert caught.value.exit_code == 7
    assert [path for _, path in daemon.requests] == ["/v1/version"]


def test_channel_raises_the_error_the_daemon_reported(
    daemon: DaemonSimulator, client: Client
) -> None:
    daemon.error = Busy("{repo} is leased by {holders}", hint="see {repo}", repo="a/b", holders="x")
    with pytest.raises(Busy) as caught:
        client.remove("a/b")
    assert caught.value.message == "a/b is leased by x"
    assert caught.value.template == "{repo} is leased by {holders}"
    assert caught.value.hint == "see a/b"


def test_channel_keeps_an_error_whose_values_have_reserved_names(
    daemon: DaemonSimulator, client: Client
) -> None:
    error = NotFound("{text}", text="{x} is gone")
    error.values.update({"hint": "h", "template": "t", "self": "s"})
    daemon.error = error
    with pytest.raises(NotFound, match="is gone"):
        client.snapshots()


def test_channel_says_so_when_the_answer_is_not_of_this_protocol(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        child = os.fork()
        if child == 0:
            for _ in range(2):
                line, _address = listener.accept()
                if line.recv(65536):
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
            os._exit(0)
        try:
            with Client(path) as client, pytest.raises(VersionMismatch):
                client.snapshots()
        finally:
            os.waitpid(child, 0)


def test_error_of_an_unknown_code_is_the_base_class(
    daemon: DaemonSimulator, client: Client
) -> None:
    class Novel(ZhcacheError):
        code = "novel"

    daemon.error = Novel("what is {thing}", thing="this")
    Novel.code = "failed"
    Novel.exit_code = 1
    with pytest.raises(ZhcacheError, match="what is this"):
        client.snapshots()


def test_first_call_brings_no_command_line_of_httpx_with_it(daemon: DaemonSimulator) -> None:
    script = (
        "import sys; from zhcache.client import Client; Client().version();"
        "print(*{'rich', 'pygments', 'httpx._main'} & set(sys.modules), 'httpx' in sys.modules);"
        "import httpx._main; print(callable(httpx._main.main))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr
