"""One exchange of HTTP/1.1 as values: a request as it came, an answer as bent as it is asked to be.

Knows no repository and no fault by name.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Literal

PACE_S = 0.02
"""Seconds between the parts of an answer that is sent slowly."""


class BadRequest(Exception):
    """What came is not HTTP as this hub reads it."""


@dataclass(slots=True, eq=False)
class Request:
    """One request as it came, and what became of it.

    Attributes:
        path: The target as sent, query included, still quoted.
        headers: By lower-case name.
        sent: Body bytes handed to the kernel so far.
        repo: The repository it is for, once known.
        file: The path in that repository, empty for a listing.
        plane: ``"bytes"`` for a GET of a file, else ``"meta"``.
        is_settled: Answered, or held by a fault: ``sent`` will not grow by itself.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    range: str | None = None
    status: int = 0
    sent: int = 0
    time: float = 0.0
    repo: str = ""
    file: str = ""
    plane: str = "meta"
    is_settled: bool = False
    wants_close: bool = False


class Line:
    """Bytes per second over all who share it. Thread-safe."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def book(self, count: int) -> float:
        """Takes its turn for ``count`` bytes and returns how many seconds off it is."""
        with self._lock:
            now = time.monotonic()
            # A short burst makes up for threads that were woken late.
            self._free_at = max(self._free_at, now - PACE_S) + count / self.rate
            return self._free_at - now


@dataclass(slots=True)
class Answer:
    """What goes back: ``content[start:stop]``, and how the sending departs from that.

    Attributes:
        declared: Content-Length, where it is not the body's length.
        extra: Zero bytes sent after the body.
        ending: What happens at byte ``ending_at`` of the body, if anything.
        stall_s: How long a stall lasts; None is until the client leaves or the hub stops.
        rate: Bytes per second from byte ``rate_from`` on, 0 for no limit.
        line: Shares one rate with other answers.
        flips: Absolute offsets whose byte is inverted.
        delay_s: Wait before the status line.
        header_interval_s: Wait after each header byte.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | Path = b""
    start: int = 0
    stop: int = 0
    declared: int | None = None
    extra: int = 0
    ending: Literal["", "close", "reset", "stall"] = ""
    ending_at: int = 0
    stall_s: float | None = None
    rate: float = 0
    rate_from: int = 0
    line: Line | None = None
    flips: tuple[int, ...] = ()
    is_zeroed: bool = False
    delay_s: float = 0
    header_interval_s: float = 0

    @classmethod
    def of(cls, status: int, body: bytes = b"", **headers: str) -> Answer:
        """An answer from memory; header names are given with ``_`` for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, named, body, 0, len(body))

    @property
    def length(self) -> int:
        """Bytes of the body before anything goes wrong with it."""
        return self.stop - self.start

    def head(self, *, keep_alive: bool) -> bytes:
        """The status line and headers as bytes."""
        length = self.length + self.extra if self.declared is None else self.declared
        lines = [f"HTTP/1.1 {self.status} {_reason(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"Content-Length: {length}", "Server: demohub"]
        lines += [f"Connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Odd"


def parse_head(head: str) -> Request:
    """Returns the request that a head is, its body still to come.

    Raises:
        BadRequest: It is none of HTTP/1.x.
    """
    line, *fields = head.split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BadRequest(f"not a request line: {line[:80]!r}")
    headers: dict[str, str] = {}
    for one in fields:
        name, colon, value = one.partition(":")
        if not colon:
            raise BadRequest(f"not a header: {one[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    if not headers.get("content-length", "0").isdigit():
        raise BadRequest("Content-Length is no number")
    request = Request(parts[0], parts[1], headers, range=headers.get("range"))
    request.time = time.monotonic()
    request.wants_close = headers.get("connection", "").lower() == "close" or parts[2] == "HTTP/1.0"
    return request
