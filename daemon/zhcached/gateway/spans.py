"""Which part of a file a request asks for. Pure.

Source: RFC 9110, sections 13.1 and 14.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SINGLE = re.compile(r"bytes[ \t]*=[ \t]*(?:(\d{1,19})-(\d{1,19})?|-(\d{1,19}))[ \t]*", re.ASCII)


class Span(NamedTuple):
    """Bytes ``start`` to ``end``, which is not one of them, of a file of ``size`` bytes."""

    start: int
    end: int
    size: int

    @property
    def content_range(self) -> str:
        """The value of ``Content-Range``."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


class NoSuchSpanError(ValueError):
    """The file has none of the bytes that are asked for."""


def chosen(header: str | None, size: int) -> Span | None:
    """Returns the span that a ``Range`` means; None is the whole file.

    Several ranges, other units and what cannot be read are answered with the whole, as allowed.

    Raises:
        NoSuchSpanError: To be answered with 416.
    """
    found = _SINGLE.fullmatch(header) if header else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        if int(suffix) == 0 or size == 0:
            raise NoSuchSpanError
        return Span(max(0, size - int(suffix)), size, size)
    start = int(first)
    if last is not None and int(last) < start:
        return None
    if start >= size:
        raise NoSuchSpanError
    return Span(start, size if last is None else min(int(last) + 1, size), size)


def is_fresh(if_none_match: str | None, etag: str) -> bool:
    """Tells whether the client has the file already, which is answered with 304."""
    if not if_none_match or not etag:
        return False
    named = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in named or etag.removeprefix("W/") in named


def is_other(if_match: str | None, etag: str) -> bool:
    """Tells whether the client wants another file than this, which is answered with 412."""
    if if_match is None:
        return False
    named = [tag.strip() for tag in if_match.split(",")]
    return "*" not in named and etag not in named


def may_resume(if_range: str | None, etag: str) -> bool:
    """Tells whether a range is of the file that the client has the rest of."""
    return if_range is None or if_range.strip() == etag
