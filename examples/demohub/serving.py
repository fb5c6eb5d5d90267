"""A file as an answer: ranges, validators, and what the faults make of them. Sends nothing."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from typing import Any, Final

from demohub.exchange import Answer, Line, Request
from demohub.faults import Fault
from demohub.repos import StoredFile

RANGE_FAULTS: Final = frozenset({"ignore_range", "range_200", "wrong_range"})
BODY_FAULTS: Final = frozenset(
    {
        "cut",
        "reset",
        "stall",
        "trickle",
        "rate",
        "line",
        "corrupt",
        "zeros",
        "short",
        "long",
        "gzip",
    }
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def wanted_range(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """The half-open range a request asks for, or None for the whole file.

    A range that begins past the end gives an empty one. Several ranges, nonsense and an
    ``If-Range`` that does not equal the strong ETag are the whole file.

    Source: RFC 9110, sections 13.1.5 and 14.2.
    """
    match = _RANGE.fullmatch((request.range or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    start = int(first)
    stop = min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else (size, size)


def file_answer(
    request: Request,
    file: StoredFile,
    headers: dict[str, str],
    *,
    range_faults: list[Fault],
    partial_status: int = 206,
) -> Answer:
    """The answer to a GET or HEAD of a file, in full or in part."""
    named = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"} | headers
    span = wanted_range(request, file.size, headers["ETag"])
    if any(fault.kind == "ignore_range" for fault in range_faults):
        span = None
    if span is None:
        return Answer(200, named, file.content, 0, file.size)
    start, stop = span
    if start == stop:
        return Answer.of(416, b"", Content_Range=f"bytes */{file.size}")
    total = file.size
    for fault in range_faults:
        if fault.kind == "wrong_range":
            start, stop = _shifted(start, stop, fault["shift"], file.size)
            total = file.size if fault["total"] is None else fault["total"]
        if fault.kind == "range_200":
            partial_status = 200
    named["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
    return Answer(partial_status, named, file.content, start, stop)


def _shifted(start: int, stop: int, shift: int, size: int) -> tuple[int, int]:
    if stop - start + start + shift > size and start >= shift:
        shift = -shift
    moved = min(max(0, start + shift), size - 1)
    return moved, max(moved + 1, min(size, stop + shift))


def suits_body(fault: Fault, answer: Answer) -> bool:
    """Whether a body fault can strike this answer; a corrupt byte must lie within it."""
    if answer.status not in {200, 206}:
        return False
    return fault.kind != "corrupt" or answer.start <= fault["offset"] < answer.stop


def bent(answer: Answer, fault: Fault, file: StoredFile) -> Answer:
    """The answer as a body fault makes it."""
    match fault.kind:
        case "cut" | "reset" | "stall":
            at = answer.length // 2 if fault["at"] is None else fault["at"]
            ending: Any = "close" if fault.kind == "cut" else fault.kind
            seconds = fault.params.get("seconds")
            return replace(answer, ending=ending, ending_at=at, stall_s=seconds)
        case "trickle":
            return replace(answer, rate=fault["rate"], rate_from=fault["at"])
        case "rate":
            return replace(answer, rate=fault["rate"])
        case "line":
            # setdefault is atomic: all connections get the one that came first.
            return replace(answer, line=fault.params.setdefault("line", Line(fault["rate"])))
        case "corrupt":
            return replace(answer, flips=(*answer.flips, fault["offset"]))
        case "zeros":
            return replace(answer, is_zeroed=True)
        case "short":
            return _shortened(answer, fault["by"])
        case "long":
            return replace(answer, extra=fault["by"])
        case "gzip":
            packed = gzip.compress(file.bytes(), mtime=0)
            headers = {k: v for k, v in answer.headers.items() if k != "Content-Range"}
            headers["Content-Encoding"] = "gzip"
            return Answer(200, headers, packed, 0, len(packed))
        case _:
            raise AssertionError(fault.kind)


def _shortened(answer: Answer, by: int) -> Answer:
    stop = max(answer.start, answer.stop - by)
    headers = dict(answer.headers)
    if "Content-Range" in headers:
        total = headers["Content-Range"].rpartition("/")[2]
        headers["Content-Range"] = f"bytes {answer.start}-{max(answer.start, stop - 1)}/{total}"
    return replace(answer, headers=headers, stop=stop)
