import threading
import time

import pytest

from simulators.scripted import CLOSE, HOLD, RESET, Scripted, plain
from zhcached.errors import AddressRefused, RemoteInvalid, StatusError, TransportError
from zhcached.transport.address import AddressPolicy, Origin
from zhcached.transport.dial import AbortedError, LateError
from zhcached.transport.http import Credential, Target, Transport
from zhcached.transport.wire import QuietError

CANARY = "Bearer hf_canary"


def opened(*servers, **options):
    return Transport(AddressPolicy.of(server.url for server in servers), **options)


def body(transport, url, **options):
    with transport.open(Target(url), read_timeout_s=5, **options) as response:
        return response.read_limited(10**6)


def test_connection_is_used_again_after_a_body_read_to_its_end():
    with Scripted(lambda _: [plain(b"hello")]) as server:
        transport = opened(server)
        assert [body(transport, server.url + "/x") for _ in range(3)] == [b"hello"] * 3
        assert server.connections == 1


def test_connection_is_not_used_again_when_the_body_was_left():
    with Scripted(lambda _: [plain(b"hello" * 10)]) as server:
        transport = opened(server)
        transport.open(Target(server.url)).close()
        body(transport, server.url)
        assert server.connections == 2


def test_kept_connection_that_the_server_closed_is_replaced_unseen():
    with Scripted(lambda asked: [plain(b"x"), *([CLOSE] if asked.number == 0 else [])]) as server:
        transport = opened(server)
        body(transport, server.url)
        assert body(transport, server.url) == b"x"


def test_kept_connection_that_dies_under_the_request_is_tried_once_more():
    def script(asked):
        return [RESET] if asked.number == 1 else [plain(b"x")]

    with Scripted(script) as server:
        transport = opened(server)
        body(transport, server.url)
        assert body(transport, server.url) == b"x"
        assert len(server.asked) == 3


def test_bytes_beyond_the_answer_never_become_the_next_answer():
    with Scripted(lambda _: [plain(b"x") + plain(b"smuggled")]) as server:
        transport = opened(server)
        assert [body(transport, server.url) for _ in range(3)] == [b"x"] * 3


@pytest.mark.parametrize("size", [1, 3, 65536])
def test_chunked_body_is_put_together(size):
    content = bytes(range(256)) * 300
    chunks = [content[i : i + size * 100] for i in range(0, len(content), size * 100)]
    raw = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Scripted(lambda _: [head + raw]) as server:
        transport = opened(server)
        assert body(transport, server.url) == content
        assert body(transport, server.url) == content
        assert server.connections == 1


@pytest.mark.parametrize(
    "tail",
    [b"5\r\nhello", b"5\r\nhelloworld\r\n", b"zz\r\n", b"5" * 9000, b"0\r\n" + b"a: b\r\n" * 99],
)
def test_chunked_body_is_refused_when_malformed(tail):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        Scripted(lambda _: [head + tail, CLOSE]) as server,
        pytest.raises((RemoteInvalid, TransportError)),
    ):
        body(opened(server), server.url)


def test_body_that_ends_early_is_an_error():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    with Scripted(lambda _: [head + b"12345", CLOSE]) as server, pytest.raises(TransportError):
        body(opened(server), server.url)


def test_body_without_length_lasts_until_the_connection_closes():
    with Scripted(lambda _: [b"HTTP/1.1 200 OK\r\n\r\nhello", CLOSE]) as server:
        assert body(opened(server), server.url) == b"hello"


def test_silence_in_the_body_is_quiet_and_the_rest_can_still_be_read():
    go_on = threading.Event()

    def script(_):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"
        go_on.wait(10)
        yield b"67890"

    buffer = memoryview(bytearray(100))
    with (
        Scripted(script) as server,
        opened(server).open(Target(server.url), read_timeout_s=0.05, head_timeout_s=5) as response,
    ):
        assert response.readinto(buffer) == 5
        with pytest.raises(QuietError):
            response.readinto(buffer)
        go_on.set()
        while True:
            try:
                assert response.readinto(buffer) == 5
                break
            except QuietError:
                continue
        assert response.readinto(buffer) == 0


def test_head_that_trickles_is_cut_off_at_the_deadline():
    def script(_):
        yield b"HTTP/1.1 200 OK\r\n"
        while True:
            yield b"X-More: y\r\n"
            yield 0.02

    with Scripted(script) as server, pytest.raises(LateError):
        opened(server).open(Target(server.url), head_timeout_s=0.4)


def test_head_is_refused_when_it_does_not_end():
    endless = b"HTTP/1.1 200 OK\r\nA: " + b"x" * 10**6
    with Scripted(lambda _: [endless]) as server, pytest.raises(RemoteInvalid):
        opened(server).open(Target(server.url), head_timeout_s=5)


def test_interim_answers_are_skipped_but_not_for_ever():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    with Scripted(lambda a: [interim * (1 if a.path == "/one" else 99) + plain(b"x")]) as server:
        transport = opened(server)
        assert body(transport, server.url + "/one") == b"x"
        with pytest.raises(RemoteInvalid):
            body(transport, server.url + "/many")


def test_wait_for_an_answer_ends_soon_after_abort():
    aborted = threading.Event()

    def script(_):
        aborted.set()
        yield HOLD

    with Scripted(script) as server:
        began = time.monotonic()
        with pytest.raises(AbortedError):
            opened(server).open(Target(server.url), head_timeout_s=30, abort=aborted.is_set)
        assert time.monotonic() - began < 5


def test_encoded_answer_is_refused():
    with Scripted(lambda _: [plain(b"\x1f\x8b", Content_Encoding="gzip")]) as server:
        with pytest.raises(RemoteInvalid, match="gzip"):
            body(opened(server), server.url)
        assert server.asked[0].headers["accept-encoding"] == "identity"


# Redirects and credentials.


def redirect(to, status="302 Found"):
    return plain(b"", status, Location=to)


def credential(server):
    return Credential(Origin.parse(server.url), CANARY)


def test_redirect_within_the_origin_keeps_the_credential():
    with Scripted(lambda a: [redirect("/b?c=d") if a.path == "/a" else plain(b"x")]) as server:
        target = Target(server.url + "/a", {"X-Own": "1"}, credential(server))
        with opened(server).open(target) as response:
            assert response.url == server.url + "/b?c=d"
        assert [a.headers.get("authorization") for a in server.asked] == [CANARY, CANARY]


def test_credential_is_gone_for_good_after_another_origin():
    def first(asked):
        return [redirect(second.url + "/back")] if asked.path == "/start" else [plain(b"x")]

    with Scripted(first) as home, Scripted(lambda _: [redirect(home.url + "/end")]) as second:
        target = Target(home.url + "/start", {"X-Own": "1"}, credential(home))
        with opened(home, second).open(target, headers={"Range": "bytes=0-1"}) as response:
            assert response.status == 200
        assert [a.headers.get("authorization") for a in home.asked] == [CANARY, None]
        assert [a.headers.get("x-own") for a in home.asked] == ["1", None]
        (seen,) = second.asked
        assert b"canary" not in seen.raw.lower()
        assert "x-own" not in seen.headers
        assert seen.headers["range"] == "bytes=0-1"


def test_credential_of_another_origin_is_never_sent():
    with Scripted(lambda _: [plain(b"x")]) as server:
        foreign = Credential(Origin.parse("https://hub.example"), CANARY)
        opened(server).open(Target(server.url, credential=foreign)).close()
        assert b"canary" not in server.asked[0].raw.lower()


def test_credential_does_not_show_in_any_text_of_the_target():
    target = Target(
        "https://h.example", credential=Credential(Origin.parse("https://h.example"), CANARY)
    )
    assert "canary" not in f"{target!r} {target}"


@pytest.mark.parametrize("name", ["Authorization", "cookie"])
def test_target_refuses_a_secret_among_its_headers(name):
    with pytest.raises(ValueError, match="Credential"):
        Target("https://h.example", {name: CANARY})


@pytest.mark.parametrize(
    "form",
    [
        "http://127.0.0.1:{port}/secret",
        "https://127.0.0.1:{port}/secret",
        "http://localhost:{port}/",
        "https://localhost:{port}/",
        "http://2130706433:{port}/",
        "https://2130706433:{port}/",
        "https://0x7f000001:{port}/",
        "https://0177.0.0.1:{port}/",
        "https://127.1:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://[::ffff:7f00:1]:{port}/",
        "http://user@127.0.0.1:{port}/",
        "http:\\\\127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "gopher://127.0.0.1:{port}/",
        "http://rebound.example:{port}/",
        "https://rebound.example:{port}/",
    ],
)
def test_redirect_to_a_forbidden_address_is_refused_before_a_connection(form):
    with Scripted(lambda _: [plain(b"secret")]) as canary:
        location = form.format(port=canary.port)
        with Scripted(lambda _: [redirect(location)]) as server:
            names = {"rebound.example": ["127.0.0.1"], "localhost": ["127.0.0.1", "::1"]}
            transport = opened(server, resolver=lambda host, _port: names[host])
            with pytest.raises(AddressRefused):
                transport.open(Target(server.url, credential=credential(server)))
        assert canary.connections == 0


def test_only_allowed_addresses_of_a_name_are_connected_to_and_it_is_resolved_once():
    calls = []

    def resolver(host, _port):
        calls.append(host)
        return ["127.0.0.1"] if len(calls) > 1 else ["192.0.2.1", "93.184.216.34", "127.0.0.1"]

    with Scripted(lambda _: []) as canary:
        transport = Transport(AddressPolicy(), resolver=resolver, connect_timeout_s=0.3)
        with pytest.raises(TransportError):
            transport.open(Target(f"https://hub.example:{canary.port}/"))
        assert canary.connections == 0
        assert calls == ["hub.example"]


def test_second_address_is_tried_when_the_first_refuses():
    with Scripted(lambda _: [plain(b"x")]) as server:
        url = f"http://hub.example:{server.port}"
        transport = Transport(
            AddressPolicy.of([url]), resolver=lambda _host, _port: ["::1", "127.0.0.1"]
        )
        assert body(transport, url) == b"x"


@pytest.mark.parametrize("start", ["/loop", "/longer"])
def test_redirects_without_end_are_refused(start):
    def script(asked):
        return [redirect("/loop" if asked.path == "/loop" else f"{asked.path}r")]

    with Scripted(script) as server, pytest.raises(RemoteInvalid):
        opened(server).open(Target(server.url + start))


def test_redirect_with_raw_utf8_is_escaped():
    location = "/模型 a.bin".encode().decode("latin-1")
    raw = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location.encode("latin-1")
    with Scripted(lambda a: [raw + b"\r\n\r\n" if a.path == "/" else plain(b"x")]) as server:
        assert body(opened(server), server.url + "/") == b"x"
        assert server.asked[1].path == "/%E6%A8%A1%E5%9E%8B%20a.bin"


def test_proxy_of_the_environment_is_ignored(monkeypatch):
    with (
        Scripted(lambda _: [plain(b"proxied")]) as proxy,
        Scripted(lambda _: [plain(b"x")]) as server,
    ):
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert body(opened(server), server.url) == b"x"
        assert proxy.connections == 0


def test_header_that_would_split_the_request_is_refused():
    with Scripted(lambda _: [plain(b"x")]) as server, pytest.raises(ValueError, match="header"):
        opened(server).open(Target(server.url, {"X": "a\r\nHost: evil"}))


# Documents.


def test_document_comes_with_its_headers():
    with Scripted(lambda _: [plain(b"{}", Link='<x>; rel="next"')]) as server:
        headers, content = opened(server).fetch_document(
            Target(server.url), max_bytes=10, deadline_s=5
        )
        assert (headers["link"], content) == ('<x>; rel="next"', b"{}")


def test_document_is_refused_when_longer_than_allowed():
    with Scripted(lambda _: [plain(b"x" * 11)]) as server, pytest.raises(RemoteInvalid):
        opened(server).fetch_document(Target(server.url), max_bytes=10, deadline_s=5)


def test_document_that_trickles_is_cut_off_at_the_deadline():
    def script(_):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        while True:
            yield b"x"
            yield 0.02

    with Scripted(script) as server, pytest.raises(TransportError):
        opened(server).fetch_document(Target(server.url), max_bytes=10**4, deadline_s=0.4)


def test_document_with_an_error_status_keeps_reason_and_wait():
    answer = plain(b'{"error":"no"}', "429 Too Many", Retry_After="7", X_Error_Code="Slow")
    with Scripted(lambda _: [answer]) as server, pytest.raises(StatusError) as caught:
        opened(server).fetch_document(Target(server.url), max_bytes=10, deadline_s=5)
    error = caught.value
    assert (error.status, error.retry_after_s) == (429, 7.0)
    assert (error.headers["x-error-code"], error.body) == ("Slow", b'{"error":"no"}')


def test_body_of_an_error_is_cut_at_64_kib():
    long = plain(b"x" * 10**6, "500 Oh")
    with Scripted(lambda _: [long]) as server, pytest.raises(StatusError) as caught:
        opened(server).fetch_document(Target(server.url), max_bytes=10, deadline_s=5)
    assert len(caught.value.body) == 64 * 2**10


def test_close_drops_kept_connections():
    with Scripted(lambda _: [plain(b"x")]) as server:
        transport = opened(server)
        body(transport, server.url)
        transport.close()
        body(transport, server.url)
        assert server.connections == 2
