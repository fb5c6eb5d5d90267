"""Is this the answer to that range? Pure.

A server may ignore the range, send another one, or send another file; none of it may end up
under the wrong offset. What is accepted says exactly which offsets its body brings. Source: RFC
9110 sections 13.1.5, 14 and 15.3.7; ModelScope answers a range with 200 and a Content-Range.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from zhcached.errors import RemoteInvalid

# A server may shorten a range; one that does so to crumbs would make us ask for ever.
MIN_SHORTENED = 2**20

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.IGNORECASE)
_HTML_NAME = re.compile(r"\.x?html?(?:\W|$)", re.IGNORECASE)


class OtherFileError(RemoteInvalid):
    """The source sends something else than the file it promised: another size, other offsets."""

    fault = "lied"


class OtherSizeError(OtherFileError):
    """What it has under that name is longer or shorter than the file."""


class ChangedError(RemoteInvalid):
    """The source's file is no longer the one earlier ranges came from."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The body brings ``start..end``. ``ranged`` is false for the whole file, unasked.

    ``etag`` is a strong validator of the file at this origin, or None.
    """

    start: int
    end: int
    etag: str | None
    ranged: bool


def accept(
    start: int,
    end: int,
    *,
    size: int,
    status: int,
    headers: Mapping[str, str],
    url: str,
    pinned: str | None = None,
) -> Accepted:
    """Returns what the answer to a request for ``start..end`` brings.

    Args:
        start: First offset asked for.
        end: One past the last.
        size: Promised size of the file.
        status: 200 or 206 can be accepted.
        headers: Of the answer, by name in any case.
        url: Where it came from; only its file name's ending matters.
        pinned: Strong validator of the ranges that came from there earlier.

    Raises:
        OtherFileError: Another size, other offsets, or more than was asked for.
        ChangedError: The validator is another one.
        RemoteInvalid: A web page, several parts, or a status that carries no file.
    """
    if status == 416:
        raise OtherSizeError(f"the source has no bytes {start} to {end - 1} of {size}")
    if status not in (200, 206):
        raise RemoteInvalid(f"an answer with status {status} carries no file")
    _check_type(headers.get("content-type", ""), url)
    etag = strong(headers.get("etag"))
    field = headers.get("content-range")
    if field is None and status == 206:
        raise RemoteInvalid("a partial answer does not say which part it is")
    if pinned is not None and etag is not None and etag != pinned:
        raise ChangedError(f"the file changed from {pinned[:80]} to {etag[:80]}")
    if field is None:
        _check_length(headers, size)
        return Accepted(0, size, etag, ranged=False)
    sent_start, sent_end, total = _content_range(field)
    if total != size:
        raise OtherSizeError(f"the source's file has {total} bytes, promised were {size}")
    if sent_start != start or not start < sent_end <= end:
        raise OtherFileError(
            f"asked for bytes {start} to {end - 1}, offered were {sent_start} to {sent_end - 1}"
        )
    if sent_end < min(end, start + MIN_SHORTENED):
        raise RemoteInvalid("the source cuts ranges to crumbs")
    _check_length(headers, sent_end - sent_start)
    return Accepted(sent_start, sent_end, etag, ranged=True)


def strong(etag: str | None) -> str | None:
    """Returns ``etag`` if it is a strong validator in its full form, else None."""
    return etag if etag is not None and re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', etag) else None


def _check_type(content_type: str, url: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/byteranges":
        raise RemoteInvalid("the source answers one range with several parts")
    if kind in ("text/html", "application/xhtml+xml") and not _HTML_NAME.search(url):
        raise RemoteInvalid("a web page came instead of the file (a login or error page?)")


def _check_length(headers: Mapping[str, str], expected: int) -> None:
    length = headers.get("content-length")
    if length is not None and length.strip() != str(expected):
        raise OtherFileError(f"the body has {length[:20]} bytes, expected were {expected}")


def _content_range(field: str) -> tuple[int, int, int]:
    found = _CONTENT_RANGE.fullmatch(field.strip())
    if found is None:
        raise RemoteInvalid("the answer's Content-Range cannot be read")
    return int(found[1]), int(found[2]) + 1, int(found[3])
