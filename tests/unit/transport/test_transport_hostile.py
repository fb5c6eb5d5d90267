"""Whatever a server sends, only the transport's own errors come out."""

import os
import resource
import socket
import string
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.scripted import CLOSE, Scripted, plain
from zhcached.errors import AddressRefused, RemoteError, TransportError
from zhcached.transport.address import AddressPolicy, joined
from zhcached.transport.dial import system_resolver
from zhcached.transport.http import Target, Transport
from zhcached.transport.message import framing, parse_head, retry_after_s


class OnlyNamed(AddressPolicy):
    """Lets nothing be connected to but what is named, so that no guess reaches the network."""

    def check_address(self, origin, address):
        if origin not in self.allowed_origins:
            raise AddressRefused(f"{address} is not named")


HOSTS = st.one_of(
    st.sampled_from(["127.0.0.1", "[::1]", "[::1", "::1]", "[", "]", "[v1.x]", "[x]", "a" * 64,
                     ".", "..", ".a", "xn--", "xn--a", "a" * 64 + ".example", "a." * 200, ""]),
    st.text(string.printable, max_size=12),
)  # fmt: skip
PORTS = st.sampled_from(["", ":", ":0", ":80", ":99999", ":-1", ":x", ":" + "9" * 5000, ":８０"])
LOCATIONS = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda scheme, host, port, rest: f"{scheme}{host}{port}{rest}".encode(),
        st.sampled_from(["http://", "https://", "//", "http:", "HTTPS://", "ftp://", ""]),
        HOSTS,
        PORTS,
        st.text(max_size=8).map(lambda text: text.encode(errors="replace").decode()),
    ),
)


class Hostile:
    """One server and one transport for many examples; ``steps`` is what it answers next."""

    def __init__(self):
        self.steps = []
        self.server = Scripted(self._script)
        self.transport = Transport(
            OnlyNamed.of([self.server.url]),
            resolver=lambda host, _port: system_resolver(host, 1) if len(host) > 63 else [],
        )

    def _script(self, _asked):
        return self.steps.pop(0) if self.steps else [plain(b"x")]

    def answers(self, *steps):
        """Asks for a document; the first answer is ``steps``, all later ones are sound."""
        self.steps = [list(steps)]
        self.transport.fetch_document(Target(self.server.url), max_bytes=100, deadline_s=5)


@pytest.fixture(scope="module")
def hostile():
    made = Hostile()
    with made.server:
        yield made
        made.transport.close()


def redirect(location):
    return b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"


@pytest.mark.parametrize(
    "location",
    [b"http://[x", b"//[", b"http://]", b"https://h:99999/", b"https://" + b"a" * 64 + b".example/",
     b"https://xn--a.example/", b"http://[::1]x/", b"https://\xed\xa0\x80/",
     b"http://h\xe2\x84\x80x/"],
)  # fmt: skip
def test_redirect_is_refused_when_its_address_is_none(hostile, location):
    with pytest.raises(RemoteError):
        hostile.answers(redirect(location))


@settings(max_examples=300, deadline=None)
@given(location=LOCATIONS)
def test_redirect_raises_only_remote_errors_whatever_its_address(hostile, location):
    with suppress(RemoteError):
        hostile.answers(redirect(location))


@given(st.text(max_size=30))
def test_joined_address_is_ascii_or_refused(reference):
    try:
        assert joined("https://h.example/a", reference).isascii()
    except AddressRefused:
        pass


def test_name_no_resolver_can_encode_does_not_resolve():
    with pytest.raises(TransportError):
        system_resolver("a" * 64 + ".example", 443)


NAMES = st.sampled_from(
    [b"Content-Length", b"Transfer-Encoding", b"Location", b"Retry-After", b"Connection",
     b"ratelimit", b"Content-Encoding", b"ETag"]
)  # fmt: skip
VALUES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"chunked", b"-1", b"5,5", b"9" * 5000, b"\xb2", b"Thu, 01 Jan 1970 00:00:01 GMT",
         b"Thu, 01 Jan 99999 00:00:01 GMT", b"Mon, 01 Jan 0001 00:00:00 +9999",
         b"1 Jan 1970 1.2.3.4 GMT", b'"api";r=0;t=999999999999', b"identity", b"close"]
    ),
)  # fmt: skip
HEADS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda status, fields, tail: b"\r\n".join(
            [b"HTTP/1.1 " + status, *(n + b": " + v for n, v in fields), b"", tail]
        ),
        st.sampled_from([b"200 OK", b"204 x", b"302 x", b"429 x", b"503 x", b"999 x", b"100 x"]),
        st.lists(st.tuples(NAMES, VALUES), max_size=4),
        st.one_of(st.binary(max_size=20), st.sampled_from([b"5\r\nhello\r\n0\r\n\r\n", b"-1\r\n"])),
    ),
)


@settings(max_examples=400)
@given(HEADS)
def test_head_raises_only_remote_errors_whatever_its_bytes(raw):
    try:
        head = parse_head(raw.partition(b"\r\n\r\n")[0])
        framing("GET", head)
    except RemoteError:
        return
    asked = retry_after_s(head.headers, wall=1e9)
    assert asked is None or 0 <= asked <= 300


@settings(max_examples=150, deadline=None)
@given(raw=HEADS)
def test_exchange_raises_only_remote_errors_whatever_the_bytes(hostile, raw):
    with suppress(RemoteError):
        hostile.answers(raw, CLOSE)


# Sockets that cannot be made.


def test_next_address_is_tried_when_the_first_family_is_off(monkeypatch):
    class NoSixth(socket.socket):
        """What a kernel without IPv6 does."""

        def __init__(self, family=-1, *rest, **named):
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *rest, **named)

    with Scripted(lambda _: [plain(b"x")]) as server:
        url = f"http://hub.example:{server.port}/"
        monkeypatch.setattr(socket, "socket", NoSixth)
        both = Transport(AddressPolicy.of([url]), resolver=lambda _h, _p: ["::1", "127.0.0.1"])
        with both.open(Target(url), read_timeout_s=5) as response:
            assert response.read_limited(10) == b"x"
        both.close()
        only = Transport(AddressPolicy.of([url]), resolver=lambda _h, _p: ["::1"])
        with pytest.raises(TransportError, match="family"):
            only.open(Target(url))


def test_connection_fails_as_the_transport_does_when_no_descriptor_is_left():
    url = "http://hub.example:9/"
    transport = Transport(
        AddressPolicy.of([url]), resolver=lambda _h, _p: ["127.0.0.1", "127.0.0.2"]
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(TransportError, match="Too many open files"):
            transport.open(Target(url))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
