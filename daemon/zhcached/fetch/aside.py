"""The bytes of a file that failed its proof, kept to find out whose were wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from zhcache.errors import Cancelled
from zhcached.fetch.offer import Receiver
from zhcached.store.ranges import Ranges

_COPY_BYTES = 2**20


class Aside:
    """Bytes that came, and who sent which. Close it.

    Args:
        path: The file; its descriptor outlives the name, which goes when the ingest is committed.
        sent: Ranges by source.
    """

    def __init__(self, path: Path, sent: Mapping[str, Ranges]) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.sent = dict(sent)

    def close(self) -> None:
        """Lets the bytes go."""
        os.close(self.fd)

    def restore(
        self, ingest: Receiver, sources: Collection[str], cancelled: threading.Event
    ) -> None:
        """Writes what ``sources`` had sent into ``ingest`` again, as theirs.

        Raises:
            Cancelled: ``cancelled`` was set.
        """
        for source in sources:
            for start, end in self.sent.get(source, ()):
                for offset, chunk in _chunks(self.fd, start, end):
                    if cancelled.is_set():
                        raise Cancelled("the download was cancelled")
                    ingest.write(offset, chunk, source)


class Comparison:
    """An ingest that also compares what arrives with what suspects had sent for it.

    Args:
        ingest: Receives the bytes.
        aside: Holds those that came before.
        judge: Whose bytes arrive; everybody else who had sent some is a suspect.
    """

    def __init__(self, ingest: Receiver, aside: Aside, judge: str) -> None:
        self.size = ingest.size
        self.missing = ingest.missing
        self.contributions = ingest.contributions
        self.discard = ingest.discard
        self.maybe_sync = ingest.maybe_sync
        self.sync = ingest.sync
        self.differing: set[str] = set()
        self._ingest = ingest
        self._fd = aside.fd
        self._suspects = {s: ranges for s, ranges in aside.sent.items() if s != judge}

    def write(self, offset: int, chunk: memoryview | bytes, source: str) -> None:
        """Takes bytes, after a look at what others had sent in their place."""
        view = memoryview(chunk)
        for suspect, ranges in self._suspects.items():
            if suspect not in self.differing and self._differs(ranges, offset, view):
                self.differing.add(suspect)
        self._ingest.write(offset, chunk, source)

    def _differs(self, ranges: Ranges, offset: int, view: memoryview) -> bool:
        common = Ranges([(offset, offset + len(view))])
        common.subtract(ranges.gaps_within(offset, offset + len(view)))
        return any(
            memoryview(os.pread(self._fd, high - low, low)) != view[low - offset : high - offset]
            for low, high in common
        )


def _chunks(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end:
        chunk = os.pread(fd, min(_COPY_BYTES, end - start), start)
        if not chunk:
            return
        yield start, chunk
        start += len(chunk)
