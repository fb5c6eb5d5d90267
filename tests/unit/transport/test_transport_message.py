import pytest

from zhcached.errors import RemoteInvalid
from zhcached.transport.message import (
    CHUNKED,
    UNTIL_CLOSE,
    Headers,
    framing,
    parse_chunk_size,
    parse_head,
    retry_after_s,
)


def head(*lines, status="200 OK"):
    return parse_head("\r\n".join([f"HTTP/1.1 {status}", *lines]).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 600 X",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nName : value",
        b"HTTP/1.1 200 OK\r\nA: b\rc",
        b"HTTP/1.1 200 OK\r\nA: b\0c",
        b"HTTP/1.1 200 OK" + b"\r\nA: b" * 300,
    ],
)
def test_head_is_refused_when_malformed(raw):
    with pytest.raises(RemoteInvalid):
        parse_head(raw)


def test_headers_match_in_any_case_and_join_repeats():
    found = head("X-Thing: a", "x-thing: b").headers
    assert found["X-THING"] == "a, b"
    assert "nothing" not in found


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: -1"],
        ["Content-Length: 5x"],
        ["Content-Length: 99999999999999999999"],
        ["Content-Length: ٥"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
    ],
)
def test_framing_is_refused_when_ambiguous(lines):
    raw = "\r\n".join(["HTTP/1.1 200 OK", *lines]).encode("utf-8")
    with pytest.raises(RemoteInvalid):
        framing("GET", parse_head(raw))


def test_framing_knows_every_kind():
    assert framing("GET", head("Content-Length: 5")) == 5
    assert framing("GET", head("Content-Length: 5, 5")) == 5
    assert framing("HEAD", head("Content-Length: 5")) == 0
    assert framing("GET", head("Transfer-Encoding: chunked")) == CHUNKED
    assert framing("GET", head()) == UNTIL_CLOSE
    assert framing("GET", head(status="204 No Content")) == 0


@pytest.mark.parametrize("line", [b"", b"x", b"-5", b"0x5", b"f" * 16])
def test_chunk_size_is_refused_when_malformed(line):
    with pytest.raises(RemoteInvalid):
        parse_chunk_size(line)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "5"}, 5.0),
        ({"Retry-After": "1000000000"}, 300.0),
        ({"Retry-After": "9" * 4000}, 300.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 300.0),
        ({"Retry-After": "Thu, 99 Foo 1970"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=0;t=5500'}, 300.0),
        ({"Retry-After": "7", "ratelimit": '"api";r=0;t=55'}, 7.0),
    ],
)
def test_retry_after_is_read_and_capped(fields, expected):
    assert retry_after_s(Headers(fields.items()), wall=10.0) == expected
