"""One client that asks for more than it needs, and all the others."""

import http.client
import socket
import ssl

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import CONFIG, FILES, REPO, WEIGHTS, Front

SMALL = "model_index.json"
LARGE = "unet/model.safetensors"
OTHER = "127.0.0.2"


@pytest.fixture
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


def status_of_other(front, repo=REPO):
    """Asks from another address of this machine."""
    line = http.client.HTTPConnection(
        "127.0.0.1", front.port, timeout=20, source_address=(OTHER, 0)
    )
    line.request("GET", f"/{repo}/main/{SMALL}")
    status = line.getresponse().status
    line.close()
    return status


def asked_for(hub, repo: str) -> list:
    return [request for request in hub.requests if repo in request.path]


def test_who_asks_for_much_and_leaves_keeps_nobody_else_waiting(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("zhcached.gateway.context.WAITING", 2)
    with Front(tmp_path / "store", [hub]) as front:
        assert front.get(SMALL).body == CONFIG
        silent = hub.fault("delay", plane="meta", seconds=3600.0)
        waiting = front.context._waiting
        for number in range(2):
            with socket.create_connection(("127.0.0.1", front.port)) as line:
                line.sendall(
                    f"GET /lab/r{number}/main/x HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                )
                # Not before the hub has it: a question that no thread has taken up yet ends with
                # whoever asked it, as nobody would wait for its answer.
                until(lambda n=number: asked_for(hub, f"lab/r{n}"), "the hub is asked")
                assert waiting["127.0.0.1"] == number + 1
        until(lambda: front.server.clients == 0, "they have left")
        refused = front.get(SMALL)
        assert (refused.status, b"wait" in refused.body) == (503, True)
        assert status_of_other(front) == 200
        hub.heal(silent)
        hub.stop()
        until(lambda: not waiting, "all of it is over")
        assert front.get(SMALL).status == 200


def test_names_that_nobody_has(tmp_path, hub):
    with Front(tmp_path / "store", [hub], questions=3) as front:
        assert front.get(SMALL).body == CONFIG
        assert [front.get(SMALL, repo=f"lab/r{n}").status for n in range(4)] == [404, 404, 503, 503]
        assert not asked_for(hub, "lab/r2")
        # What is known is told all the same, and others may ask.
        assert front.get(SMALL).body == CONFIG
        assert status_of_other(front, "lab/r2") == 404
    with Front(tmp_path / "store", [hub], questions=1, refresh=0.0) as front:
        assert [front.get(SMALL).status for _ in range(3)] == [200, 200, 200]


def test_listings_of_what_nobody_fetches_do_not_pile_up(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("zhcached.jobs.pulling.listings.MAX_REPOS", 2)
    with Front(tmp_path / "store", [hub]) as front:
        assert front.get(SMALL).body == CONFIG
        until(lambda: front.published(front.repo), "it is published")
        for number in range(4):
            hub.add(f"lab/r{number}", {SMALL: b"%d" % number})
            assert front.get(SMALL, repo=f"lab/r{number}", method="HEAD").status == 200
        kept = {path.name for path in (tmp_path / "store" / "listings").iterdir()}
        assert kept == {front.repo.folder, "models--lab--r2", "models--lab--r3"}


def connected(front, address):
    return socket.create_connection(
        ("127.0.0.1", front.port), timeout=20, source_address=(address, 0)
    )


def test_one_address_leaves_room_for_others(tmp_path, hub):
    with Front(tmp_path / "store", [hub], clients=4) as front:
        held = [connected(front, "127.0.0.1") for _ in range(3)]
        until(lambda: front.server.clients == 3, "they are there")
        with connected(front, "127.0.0.1") as full:
            assert full.recv(100).startswith(b"HTTP/1.1 503 ")
        assert status_of_other(front) == 200
        held.pop().close()
        until(lambda: front.server.clients == 2, "one has left")
        assert front.get(SMALL).status == 200
        for line in held:
            line.close()
        until(lambda: front.server.clients == 0, "all have left")
        assert not front.server._connections._of


def test_handshakes_that_do_not_end_have_a_limit(tmp_path, hub):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with Front(tmp_path / "store", [hub], clients=2, tls=tls, header_s=1.0) as front:
        opening = front.server._connections._opening
        held = [connected(front, "127.0.0.1") for _ in range(4)]
        until(lambda: len(opening) == 4, "they are there")
        with connected(front, OTHER) as line:
            # Nothing can be told: it would take a handshake.
            assert (line.recv(100), len(opening)) == (b"", 4)
        for line in held:
            assert line.recv(100) == b""
            line.close()
        with connected(front, OTHER):
            until(lambda: len(opening) == 1, "there is room again")


def test_what_nobody_waits_for_makes_room_for_what_somebody_does(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("zhcached.jobs.pulling.arrivals.LARGE_AT_ONCE", 1)
    monkeypatch.setattr("zhcached.jobs.pulling.arrivals.LARGE_BYTES", 1000)
    monkeypatch.setattr("zhcached.jobs.pulling.patience.CROWDED_S", 0.1)
    hub.add("lab/other", {LARGE: WEIGHTS[:200_000]})
    hub.fault("rate", path=LARGE, repo=REPO, rate=32 << 10)
    with Front(tmp_path / "store", [hub]) as front:
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{LARGE}")
        assert line.getresponse().read(1) == WEIGHTS[:1]
        line.close()
        assert front.get(LARGE, repo="lab/other").body == WEIGHTS[:200_000]
