import os
import socket
import stat

import pytest

from zhcache.errors import AlreadyRunning, NotPermitted
from zhcached.api import listen


def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        folder = os.open(path.parent, os.O_PATH)
        try:
            client.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


def test_bind_makes_a_socket_for_its_user_alone(tmp_path):
    with listen.bind(tmp_path / "api.sock"):
        assert stat.S_IMODE((tmp_path / "api.sock").stat().st_mode) == 0o600
        connect(tmp_path / "api.sock")


def test_bind_takes_a_path_longer_than_a_socket_address(tmp_path):
    deep = tmp_path.joinpath(*["a" * 60] * 3, "api.sock")
    with listen.bind(deep):
        connect(deep)


def test_bind_replaces_a_socket_nobody_answers_on(tmp_path):
    listen.bind(tmp_path / "api.sock").close()
    with listen.bind(tmp_path / "api.sock"):
        connect(tmp_path / "api.sock")


def test_bind_is_refused_when_a_daemon_answers(tmp_path):
    with listen.bind(tmp_path / "api.sock"), pytest.raises(AlreadyRunning):
        listen.bind(tmp_path / "api.sock")


@pytest.mark.parametrize("kind", ["file", "symlink", "folder"])
def test_bind_does_not_remove_what_is_no_socket(tmp_path, kind):
    path = tmp_path / "api.sock"
    if kind == "file":
        path.write_text("mine")
    elif kind == "symlink":
        (tmp_path / "target").write_text("mine")
        path.symlink_to("target")
    else:
        path.mkdir()
    with pytest.raises(NotPermitted):
        listen.bind(path)
    assert path.lstat()


def test_remove_leaves_a_socket_that_has_taken_our_name(tmp_path):
    path = tmp_path / "api.sock"
    with listen.bind(path):
        mine = path.lstat()
        path.unlink()
        with listen.bind(path):
            listen.remove(path, mine)
            connect(path)
