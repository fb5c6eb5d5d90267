"""HTTP/1.1 answers as bytes: the head, how the body is framed, how long to wait. Pure.

Stricter than a browser: what is ambiguous is refused, because two ways to read an answer are two
files. Source: RFC 9112 sections 4 to 7, RFC 9110 section 10.2.3.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from zhcached.errors import RemoteInvalid

MAX_HEAD_BYTES = 64 * 2**10
MAX_HEADERS = 200
MAX_RETRY_AFTER_S = 300.0

CHUNKED = -1
UNTIL_CLOSE = -2

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LIMIT_RESET = re.compile(r"(?:^|[;,\s])t=(\d{1,12})(?:$|[;,\s])")


class Headers(Mapping[str, str]):
    """Header fields by name in any case; repeated ones are joined with a comma."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, str] = {}
        for name, value in fields:
            key = name.lower()
            before = self._fields.get(key)
            self._fields[key] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer. ``minor`` is the 1 of HTTP/1.1."""

    minor: int
    status: int
    headers: Headers

    @property
    def keeps_alive(self) -> bool:
        """Whether the server lets the connection be used again."""
        return self.minor == 1 and "close" not in self.headers.get("connection", "").lower()


def parse_head(raw: bytes) -> Head:
    """Returns the head in ``raw``, which ends before the empty line.

    Raises:
        RemoteInvalid: Not an HTTP/1 answer, or a header line that can be read in two ways.
    """
    lines = raw.replace(b"\r\n", b"\n").split(b"\n")
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise RemoteInvalid("the answer is not HTTP/1.1")
    if len(lines) > MAX_HEADERS:
        raise RemoteInvalid("the answer has too many headers")
    fields: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not _NAME.fullmatch(name) or "\r" in value or "\0" in value:
            raise RemoteInvalid("the answer has a malformed header")
        fields.append((name, value.strip(" \t")))
    return Head(int(status[1]), int(status[2]), Headers(fields))


def framing(method: str, head: Head) -> int:
    """Returns the body's length in bytes, ``CHUNKED`` or ``UNTIL_CLOSE``.

    Raises:
        RemoteInvalid: The length is given twice, differently, or in a coding nobody asked for.
    """
    if method == "HEAD" or head.status in (204, 304):
        return 0
    coding = head.headers.get("transfer-encoding")
    length = head.headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise RemoteInvalid("the answer frames its body in more than one way")
        return CHUNKED
    if length is None:
        return UNTIL_CLOSE
    lengths = {part.strip() for part in length.split(",")}
    text = lengths.pop()
    if lengths or not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RemoteInvalid("the answer's Content-Length is not one number")
    return int(text)


def parse_chunk_size(line: bytes) -> int:
    """Returns the size in a chunk's first line.

    Raises:
        RemoteInvalid: Not a size.
    """
    text = line.partition(b";")[0].strip()
    if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", text):
        raise RemoteInvalid("a chunk of the answer has no size")
    return int(text, 16)


def retry_after_s(headers: Mapping[str, str], wall: float) -> float | None:
    """Returns what ``asked_s`` does, at most 300."""
    asked = asked_s(headers, wall)
    return None if asked is None else min(asked, MAX_RETRY_AFTER_S)


def asked_s(headers: Mapping[str, str], wall: float) -> float | None:
    """Returns how many seconds the server asks to be left alone, 0 or more, or None.

    Args:
        headers: Of the answer.
        wall: The present, seconds since the epoch; a date is relative to it.

    Source: RFC 9110 section 10.2.3; the Hub's ``ratelimit: "api";r=0;t=55``.
    """
    asked: float | None = None
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        asked = float(text[:12])
    elif text:
        try:
            asked = email.utils.parsedate_to_datetime(text).timestamp() - wall
        except (ValueError, OverflowError):
            asked = None
    if asked is None and (reset := _LIMIT_RESET.search(headers.get("ratelimit", ""))):
        asked = float(reset[1])
    return None if asked is None else max(asked, 0.0)
