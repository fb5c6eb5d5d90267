"""A blob that comes by a swarm: what the process says of it, and its pieces into the ingest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from zhcache.errors import Cancelled
from zhcached.clock import Clock
from zhcached.config import DownloadConfig
from zhcached.errors import TransportError
from zhcached.fetch.limits import SlowError, SpeedFloor
from zhcached.fetch.offer import Control, LeftError, Receiver, Sender
from zhcached.store.ranges import Ranges
from zhcached.swarm.torrent import HASH_BYTES, piece_count, piece_length
from zhcached.swarm.words import Broken, Came

LOOK_S: Final = 0.25
_CHUNK: Final = 512 * 2**10


def pieces_not_in(missing: Ranges, size: int) -> list[int]:
    """Returns the pieces of which nothing is missing. Pure."""
    length = piece_length(size)
    wanted: set[int] = set()
    for start, end in missing:
        wanted.update(range(start // length, -(-end // length)))
    return [piece for piece in range(piece_count(size)) if piece not in wanted]


@dataclass(slots=True)
class Coming:
    """One blob on its way by a swarm. Thread-safe, but for ``bring``.

    Attributes:
        hashes: Of its pieces.
        file: Where the process has it.
        done: Bytes of it that came so far; what turned out wrong is taken off again.
        failure: Why nothing more comes.
        draws: Whether this machine draws it from web seeds.
    """

    sha256: str
    size: int
    infohash: str
    hashes: bytes
    file: Path
    done: int = 0
    failure: str = ""
    draws: bool = False
    _new: deque[int] = field(default_factory=deque[int])
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def heard(self, event: Came | Broken | None) -> None:
        """Takes what the process says; None is its end."""
        with self._changed:
            if isinstance(event, Came):
                self.done = event.done
                self._new.extend(p for p in event.pieces if 0 <= p < piece_count(self.size))
            else:
                self.failure = event.error if event else "the process of the swarm has ended"
            self._changed.notify_all()

    def bring(
        self,
        ingest: Receiver,
        control: Control,
        config: DownloadConfig,
        clock: Clock,
        sender: Sender,
        each: Callable[[], None],
    ) -> None:
        """Writes the pieces into ``ingest`` as they come, until nothing is missing.

        ``each`` is called about four times a second.

        Raises:
            SlowError: Less than ``min_rate`` came for ``stall``.
            TransportError: The torrent or the process failed.
            LeftError: A reader waits.
            Cancelled: As ``control`` says.
            ZhcacheError: The disk failed.
        """
        floor, most, rested_s = SpeedFloor(config.stall), 0, 0.0
        with contextlib.ExitStack() as ending:
            fd = -1
            while ingest.missing():
                if control.cancelled.is_set():
                    raise Cancelled("the download was cancelled")
                if control.wanted():
                    raise LeftError("a reader waits for the file, who wants it in order")
                each()
                began = clock.monotonic()
                piece = self._next()
                grown, most = max(0, self.done - most), max(self.done, most)
                if floor.is_below(grown, clock.monotonic() - began + rested_s, config.min_rate):
                    raise SlowError(f"less than {config.min_rate} bytes/s for {config.stall:g} s")
                rested_s = 0.0
                if piece is None:
                    continue
                if fd < 0:
                    fd = _opened(self.file)
                    ending.callback(os.close, fd)
                if not self._is_on_disk(fd, piece):
                    rested_s = self._rest(piece, clock)
                    continue
                for count in self._write(fd, piece, ingest, sender.source):
                    control.on_bytes(sender, count)
                ingest.maybe_sync()

    def _next(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._new or self.failure, LOOK_S)
            if self._new:
                return self._new.popleft()
            if self.failure:
                raise TransportError(self.failure)
            return None

    def _is_on_disk(self, fd: int, piece: int) -> bool:
        """Tells whether a piece can be read: libtorrent may say so while it is yet to write it."""
        length = piece_length(self.size)
        found = hashlib.sha1(usedforsecurity=False)
        at, end = piece * length, min(self.size, (piece + 1) * length)
        while at < end:
            try:
                chunk = os.pread(fd, min(_CHUNK, end - at), at)
            except OSError as error:
                raise TransportError(f"{self.file} cannot be read: {error}") from error
            if not chunk:
                return False
            found.update(chunk)
            at += len(chunk)
        return found.digest() == self.hashes[piece * HASH_BYTES : (piece + 1) * HASH_BYTES]

    def _rest(self, piece: int, clock: Clock) -> float:
        """Puts a piece back for a moment; returns for how long, in seconds."""
        began = clock.monotonic()
        with self._changed:
            self._changed.wait(LOOK_S)
            self._new.append(piece)
        return clock.monotonic() - began

    def _write(self, fd: int, piece: int, ingest: Receiver, source: str) -> Iterator[int]:
        """Yields how much of a piece was written, chunk after chunk."""
        length = piece_length(self.size)
        begin, end = piece * length, min(self.size, (piece + 1) * length)
        for start, stop in ingest.missing():
            at = max(start, begin)
            while at < min(stop, end):
                try:
                    chunk = os.pread(fd, min(_CHUNK, min(stop, end) - at), at)
                except OSError as error:
                    raise TransportError(f"{self.file} cannot be read: {error}") from error
                if not chunk:
                    raise TransportError(f"{self.file} became shorter")
                ingest.write(at, chunk, source)
                at += len(chunk)
                yield len(chunk)


def _opened(file: Path) -> int:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TransportError(f"{file} cannot be read: {error}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise TransportError(f"{file} is no plain file")
    return fd
