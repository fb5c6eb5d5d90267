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
    environ = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}
    assert notify.inherited_sockets(environ) == []
    assert environ == {}
