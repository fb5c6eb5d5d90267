"""Who is let in, how often, and what is not told to anybody."""

import socket

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import CONFIG, FILES, REPO, Front
from harness.storekit import Clock
from zhcache.errors import Busy, UsageError
from zhcached.gateway.connections import bind, parse_listen
from zhcached.gateway.door import is_own_name, is_page, own_names
from zhcached.gateway.share import Share

SMALL = "model_index.json"


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


def test_a_token(tmp_path, hub, caplog):
    with Front(tmp_path / "store", [hub], token="right") as front:
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "m_session_id=wrong"},
                      {"Authorization": "Basic right"}, {"Authorization": "right"},
                      {"Authorization": b"Bearer \xff"}):  # fmt: skip
            refused = front.get(SMALL, **shown)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert hub.requests == []
        assert front.get(SMALL, Authorization="Bearer right").body == CONFIG
        assert front.get(SMALL, Cookie="a=b; m_session_id=right").body == CONFIG


def test_what_clients_show_unasked_goes_nowhere(tmp_path, hub, caplog, capfd):
    hub.clear_log()
    caplog.set_level("DEBUG")
    secret = "hf_" + "s" * 30
    with Front(tmp_path / "store", [hub]) as front:
        answer = front.get(SMALL, Authorization=f"Bearer {secret}", Cookie=f"m_session_id={secret}")
        assert answer.body == CONFIG
        line = front.connect()
        line.sock = socket.create_connection(("127.0.0.1", front.port))
        line.sock.sendall(f"GET / HTTP/1.1\r\nAuthorization Bearer {secret}\r\n\r\n".encode())
        assert line.sock.recv(1000).startswith(b"HTTP/1.0 400")
        line.close()
    said = "".join(capfd.readouterr()) + caplog.text
    assert secret not in said + str([(r.path, dict(r.headers)) for r in hub.requests])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Host": "evil.example:8590"}, 403),
        ({"Host": "localhost:8590"}, 200),
        ({"Host": "[::1]:8590"}, 200),
    ],
)
def test_pages_and_other_names(page_front, headers, status):
    assert page_front.get(SMALL, **headers).status == status


@pytest.fixture(scope="module")
def page_front(tmp_path_factory, hub):
    with Front(tmp_path_factory.mktemp("pages"), [hub]) as front:
        yield front


def test_names_and_pages():
    names = own_names()
    assert is_own_name(socket.gethostname(), names)
    assert is_own_name("127.0.0.1", names)
    assert not is_own_name("127.0.0.1.evil.example", names)
    assert not is_own_name("", names)
    assert not is_page({"User-Agent": "hf_hub"})


def test_requests_of_one_address(tmp_path, hub):
    clock = Clock()
    with Front(tmp_path / "store", [hub], clock=clock, requests=2) as front:
        assert [front.get(SMALL).status for _ in range(3)] == [200, 200, 429]
        clock.pass_s(20)
        limited = front.get(SMALL)
        assert (limited.status, limited.headers["retry-after"]) == (429, "40")
        assert limited.headers["ratelimit"] == '"api";r=0;t=40'
        clock.pass_s(40)
        assert front.get(SMALL).status == 200


def test_addresses_share_nothing_and_are_forgotten(monkeypatch):
    monkeypatch.setattr("zhcached.gateway.share.MAX_ADDRESSES", 3)
    share = Share(1, Clock())
    assert [share.take(a) for a in ("a", "b", "a")] == [None, None, 60.0]
    for address in "cdef":
        assert share.take(address) is None
    assert Share(0, Clock()).take("a") is None


def test_connections_at_once(tmp_path, hub):
    with Front(tmp_path / "store", [hub], clients=2) as front:
        lines = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(2)]
        until(lambda: front.server.clients == 2, "both are there")
        full = front.get(SMALL)
        assert (full.status, full.headers["retry-after"]) == (503, "5")
        lines.pop().close()
        until(lambda: front.server.clients == 1, "one has left")
        assert front.get(SMALL).status == 200
        lines.pop().close()


def test_a_header_that_does_not_come(tmp_path, hub):
    with Front(tmp_path / "store", [hub], header_s=0.2) as front:
        with socket.create_connection(("127.0.0.1", front.port), timeout=20) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            assert line.recv(1000) == b""
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{SMALL}")
        assert line.getresponse().read() == CONFIG
        line.sock.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert line.sock.recv(1000) == b""
        line.close()


def test_addresses_and_bodies_have_limits(page_front):
    assert page_front.get("a" * 5000).status == 414
    assert page_front.get("a" * 20_000).status == 400
    line = page_front.connect()
    line.request("POST", "/", body=b"x" * (2 << 20))
    assert line.getresponse().status == 413
    line.close()
    assert page_front.get("x%0d%0aX-Evil:%201").headers.get("x-evil") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8590", ("127.0.0.1", 8590)),
        (":80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("gpu1:0", ("gpu1", 0)),
    ],
)
def test_addresses_to_listen_on(text, expected):
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", "8590", "host:", "host:99999", "::1:80", "host:1x", "h:-1"])
def test_what_is_no_address(text):
    with pytest.raises(UsageError):
        parse_listen(text)


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Busy):
        bind("127.0.0.1", other.getsockname()[1], 60)
    with pytest.raises(UsageError):
        bind("192.0.2.7", 0, 60)
