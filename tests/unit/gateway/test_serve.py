"""``zhcache serve`` and the daemon behind it: real processes."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from demohub.hub import Hub
from harness.daemon import Daemon, source, until
from harness.gatewaykit import FILES, REPO, WEIGHTS
from harness.otheruser import BECOME, common_folder, let_in
from zhcache.client import Client
from zhcache.errors import Busy, UsageError
from zhcache.protocol.gateway import GatewayRequest

LARGE = "unet/model.safetensors"
ANY = "127.0.0.1:0"


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


@pytest.fixture(scope="module")
def daemon(hub, shared_workers):
    with common_folder() as folder:
        workers = {"ZHCACHE_WORKERS": str(shared_workers.path)}
        daemon = Daemon(folder / "daemon", source(hub), workers).start()
        yield daemon
        daemon.stop()


@pytest.fixture
def client(daemon):
    with Client(daemon.socket) as client:
        yield client
        client.stop_serving()


def fetch(url, path=LARGE, **headers):
    request = urllib.request.Request(f"{url}/{REPO}/resolve/main/{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def serving(daemon):
    """Starts serving on a free port; returns the process and its first line."""
    process = daemon.popen("serve", "--listen", ANY, "--json")
    first = process.stdout.readline()
    assert "serving" in first, first + process.stderr.read()
    return process, json.loads(first)


def ends(process, number):
    process.send_signal(number)
    process.communicate(timeout=20)
    return process.returncode


def started(client, **request):
    """Has the daemon serve on a free port until it is stopped."""
    return next(client.serve(GatewayRequest(**{"listen": ANY, "detach": True, **request})))


def test_in_the_foreground_until_it_is_interrupted(daemon, client):
    process, told = serving(daemon)
    assert (told["schema"], told["detached"], told["serving"]) == (1, False, True)
    assert told["url"] == f"http://{told['listen']}"
    assert fetch(told["url"]) == WEIGHTS
    state = client.gateway()
    assert (state.requests, state.bytes_sent, state.misses) == (1, len(WEIGHTS), 1)
    assert ends(process, signal.SIGINT) == 130
    until(lambda: not client.gateway().serving, "it stopped")
    with pytest.raises(urllib.error.URLError):
        fetch(told["url"])


def test_two_hundred_slow_readers_do_not_hold_up_the_api(daemon, client):
    process, told = serving(daemon)
    assert fetch(told["url"]) == WEIGHTS
    host, _, port = told["listen"].rpartition(":")
    ask = f"GET /{REPO}/resolve/main/{LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as lines:
        for _ in range(200):
            line = lines.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect((host, int(port)))
            line.sendall(ask)
        until(lambda: client.gateway().clients >= 200, "all are there")
        assert client.snapshots()
        assert fetch(told["url"]) == WEIGHTS
    assert ends(process, signal.SIGTERM) == 130
    until(lambda: not client.gateway().serving, "it stopped")


def test_one_at_a_time_and_the_port_may_be_taken(daemon, client):
    process, told = serving(daemon)
    with pytest.raises(Busy, match=told["listen"]):
        started(client, listen=told["listen"])
    assert client.stop_serving().serving is False
    assert process.wait(20) == 0
    process.communicate()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        assert taken in daemon.json("serve", "--listen", taken, code=75)["error"]["message"]
    for wrong in ({"listen": "nonsense"}, {"rate": "fast"}, {"token": "köder"}):
        with pytest.raises(UsageError):
            started(client, **wrong)
    assert client.gateway().serving is False


AS_ANOTHER_USER = f"""
import sys
import httpx
from zhcache.client import Client
from zhcache.errors import NotPermitted
from zhcache.protocol.gateway import GatewayRequest
client = Client(sys.argv[1])
wanted = GatewayRequest(listen="127.0.0.1:0")
with httpx.Client():
    pass
{BECOME}
assert client.gateway().serving is False
for call in (lambda: next(client.serve(wanted)), client.stop_serving):
    try:
        call()
    except NotPermitted as error:
        assert error.exit_code == 8
    else:
        sys.exit("it was let in")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_sees_it_and_may_not_start_or_stop_it(daemon, client):
    let_in(daemon)
    done = daemon.script(AS_ANOTHER_USER, str(daemon.socket))
    assert done.communicate(timeout=30) == ("", "")
    assert done.returncode == 0


def test_left_on_across_a_restart_with_its_token(daemon, client, tmp_path):
    token = tmp_path / "token"
    token.write_text("correct-horse\n")
    wanted = ("--detach", "--token-file", str(token), "--rate", "1GiB")
    told = daemon.json("serve", "--listen", ANY, *wanted)
    assert (told["detached"], told["token"], told["rate"]) == (True, True, 2**30)
    kept = daemon.home / "gateway.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "correct-horse" not in kept.read_text()
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(told["url"])
    assert refused.value.code == 401
    daemon.stop()
    daemon.start()
    # The first answer knows of it already.
    state = client.gateway()
    assert (state.serving, state.detached, state.token) == (True, True, True)
    assert fetch(state.url, Authorization="Bearer correct-horse") == WEIGHTS
    checks = {check.name: check for check in client.doctor().checks}
    assert checks["gateway"].status == "ok"
    assert client.stop_serving().serving is False
    assert not kept.exists()
    assert "correct-horse" not in daemon.tail()
