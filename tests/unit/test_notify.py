import os
import socket

from zhcached import notify


def test_notify_sends_its_datagram(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        assert notify.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "n")})
        assert manager.recv(100) == b"READY=1"


def test_notify_is_silent_without_a_manager():
    assert not notify.notify("READY=1", {})
    assert not notify.notify("READY=1", {"NOTIFY_SOCKET": "/nowhere/at/all"})


def test_watchdog_interval_is_half_the_limit_and_only_ours():
    assert notify.watchdog_interval_s({"WATCHDOG_USEC": "10000000"}) == 5.0
    assert notify.watchdog_interval_s({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}) is None
    assert notify.watchdog_interval_s({}) is None


def test_sockets_meant_for_another_process_are_left_alone():
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert notify.inherited(environ) == notify.Inherited()
    assert environ == {}


def test_a_descriptor_is_stored_under_its_name_and_never_polled(tmp_path):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        (tmp_path / "f").open("w") as f,
    ):
        manager.bind(str(tmp_path / "n"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "n")}
        assert notify.store_fd("arena-1", f.fileno(), environ)
        said, (kept,), _, _ = socket.recv_fds(manager, 100, 4)
        assert said.decode().splitlines() == ["FDSTORE=1", "FDNAME=arena-1", "FDPOLL=0"]
        assert os.path.samestat(os.fstat(kept), os.fstat(f.fileno()))
        os.close(kept)
        assert notify.forget_fd("arena-1", environ)
        assert manager.recv(100).decode().splitlines() == ["FDSTOREREMOVE=1", "FDNAME=arena-1"]
