"""``zhcache serve`` and the daemon behind it: real processes."""

import json
import signal
import socket
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest

from demohub.hub import Hub
from harness.daemon import Daemon, source, until
from harness.gatewaykit import FILES, REPO, WEIGHTS

LARGE = "unet/model.safetensors"


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, hub):
    daemon = Daemon(tmp_path_factory.mktemp("serve"), source(hub)).start()
    yield daemon
    daemon.stop()


def fetch(url, path=LARGE, **headers):
    request = urllib.request.Request(f"{url}/{REPO}/resolve/main/{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def serving(daemon, *arguments):
    """Starts serving on a free port; returns the process and its first line."""
    process = daemon.popen("serve", "--listen", "127.0.0.1:0", "--json", *arguments)
    first = process.stdout.readline()
    assert "serving" in first, first + process.stderr.read()
    return process, json.loads(first)


def ends(process, number):
    process.send_signal(number)
    process.communicate(timeout=20)
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_until_it_is_interrupted(daemon, number):
    process, told = serving(daemon)
    assert (told["schema"], told["detached"], told["serving"]) == (1, False, True)
    assert told["url"] == f"http://{told['listen']}"
    assert fetch(told["url"]) == WEIGHTS
    state = daemon.json("serve", "--status")
    assert state["requests"] >= 1
    assert state["bytes_sent"] >= len(WEIGHTS)
    assert ends(process, number) == 130
    until(lambda: not daemon.json("serve", "--status")["serving"], "it stopped")
    with pytest.raises(urllib.error.URLError):
        fetch(told["url"])


def test_two_hundred_slow_readers_do_not_hold_up_the_api(daemon):
    process, told = serving(daemon)
    host, _, port = told["listen"].rpartition(":")
    ask = f"GET /{REPO}/resolve/main/{LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    assert fetch(told["url"]) == WEIGHTS
    with ExitStack() as lines:
        for _ in range(200):
            line = lines.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect((host, int(port)))
            line.sendall(ask)
        until(lambda: daemon.json("serve", "--status")["clients"] >= 200, "all are there")
        assert daemon.json("ls")["snapshots"]
        assert fetch(told["url"]) == WEIGHTS
    assert ends(process, signal.SIGTERM) == 130


def test_one_at_a_time_and_the_port_may_be_taken(daemon):
    process, told = serving(daemon)
    again = daemon.json("serve", "--listen", told["listen"], code=75)
    assert told["listen"] in again["error"]["message"]
    ended = daemon.json("serve", "--stop")
    assert ended["serving"] is False
    assert process.wait(20) == 0
    process.communicate()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        refused = daemon.json("serve", "--listen", taken, code=75)
        assert taken in refused["error"]["message"]
    assert daemon.json("serve", "--listen", "nonsense", code=2)["error"]["code"] == "usage"
    assert daemon.json("serve", "--rate", "fast", code=2)["error"]["code"] == "usage"


def test_left_on_across_a_restart_with_its_token(daemon, tmp_path):
    token = tmp_path / "token"
    token.write_text("correct-horse\n")
    told = daemon.json(
        "serve", "--listen", "127.0.0.1:0", "--detach", "--token-file", str(token), "--rate", "1GiB"
    )
    assert (told["detached"], told["token"], told["rate"]) == (True, True, 2**30)
    kept = daemon.home / "gateway.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "correct-horse" not in kept.read_text()
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(told["url"])
    assert refused.value.code == 401
    daemon.stop()
    daemon.start()
    state = daemon.json("serve", "--status")
    assert (state["serving"], state["detached"], state["token"]) == (True, True, True)
    assert fetch(state["url"], Authorization="Bearer correct-horse") == WEIGHTS
    checks = {check["name"]: check for check in daemon.json("doctor")["checks"]}
    assert checks["gateway"]["status"] == "ok"
    assert daemon.json("serve", "--stop")["serving"] is False
    assert not kept.exists()
    assert "correct-horse" not in daemon.tail()
