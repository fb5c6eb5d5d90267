"""The record of which ranges of an ingest are durable, and who sent them.

A text file of lines ``<crc32 hex> <json>``, only ever appended to. Reading stops at the first
line that is torn or does not match its checksum and the file is cut there: going on past it could
miss a line that took ranges back, and bytes known to be wrong would be laid at an honest source's
door.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import msgspec

from zhcached.store import files
from zhcached.store.failpoints import hit
from zhcached.store.ranges import Ranges

Pairs = list[tuple[int, int]]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: ranges that became durable by source, or ranges that were taken back.

    ``size`` is the promised size; a journal for another size is another file's.
    """

    size: int
    add: dict[str, Pairs] = {}
    drop: Pairs = []


class Journal:
    """The journal of one ingest. Not thread-safe: the ingest serialises its calls."""

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)

    def replay(self, file_size: int) -> dict[str, Ranges]:
        """Returns the durable ranges by source and cuts off a damaged tail.

        Args:
            file_size: Length of the bytes on disk; a range beyond it cannot be.
        """
        by_source: dict[str, Ranges] = {}
        content = _read_all(self._fd)
        sound = 0
        for raw in content.splitlines(keepends=True):
            line = _parse(raw)
            if line is None or line.size != self._size:
                break
            _apply(by_source, line, min(self._size, file_size))
            sound += len(raw)
        if sound < len(content):
            os.ftruncate(self._fd, sound)
            os.fsync(self._fd)
        return by_source

    def append_received(self, by_source: dict[str, Ranges]) -> None:
        """Makes it durable that these ranges are. The bytes must have been synced before."""
        self._append(Line(self._size, add={k: v.pairs() for k, v in by_source.items()}))

    def append_dropped(self, ranges: Ranges) -> None:
        """Makes it durable that these ranges no longer count."""
        self._append(Line(self._size, drop=ranges.pairs()))

    def close(self) -> None:
        """Closes the file and keeps it."""
        os.close(self._fd)

    def _append(self, line: Line) -> None:
        body = msgspec.json.encode(line)
        files.write_all(self._fd, b"%08x %s\n" % (zlib.crc32(body), body))
        hit("journal.after_line")
        os.fdatasync(self._fd)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0)


def _parse(raw: bytes) -> Line | None:
    if len(raw) < 10 or not raw.endswith(b"\n") or raw[8:9] != b" ":
        return None
    body = raw[9:-1]
    if raw[:8] != b"%08x" % zlib.crc32(body):
        return None
    try:
        return msgspec.json.decode(body, type=Line)
    except msgspec.DecodeError:
        return None


def _apply(by_source: dict[str, Ranges], line: Line, limit: int) -> None:
    for source, pairs in line.add.items():
        target = by_source.setdefault(source, Ranges())
        for start, end in pairs:
            if 0 <= start <= end <= limit:
                target.add(start, end)
    for ranges in by_source.values():
        ranges.subtract(line.drop)
