"""Samples as JSON lines in a file: each line one write, there as soon as it was taken.

Several monitors may write one log, as each line bears the name of its span. One that was killed
leaves at most a line without its end, which reading passes over. Files are added to, never
replaced.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from zhcache.errors import NoSpace, NotFound, NotPermitted, UsageError, ZhcacheError
from zhcache.i18n import mark
from zhcache.monitoring.records import Line, Sample
from zhcache.monitoring.replay import Recorded

_ENCODER = msgspec.json.Encoder()
_MOST_OPEN = 16
"""Spans that are looked at side by side; those of programs that were killed have no end."""
_MOST_TIME = 253_402_300_800
"""Unix time of the year 10000, which no calendar here can tell."""


class Log:
    """A log that is being written. Not thread-safe.

    Args:
        path: The file; made if it is not there.
        warn: Told once if a line cannot be written: a full disk ends no measurement.

    Raises:
        ZhcacheError: It cannot be opened.
    """

    def __init__(self, path: Path, warn: Callable[[ZhcacheError], None]) -> None:
        self.path, self._warn, self._has_warned = path, warn, False
        self.lost = 0
        try:
            # A pipe that nobody empties must not hold up the program that is measured.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(path, flags, 0o666)
        except OSError as error:
            raise explained(error, path) from error
        self._is_torn = _ends_within_a_line(self._fd)

    def write(self, line: Line) -> None:
        """Adds a line; what cannot be written is lost and counted."""
        text = (b"\n" if self._is_torn else b"") + _ENCODER.encode(line) + b"\n"
        try:
            written = os.write(self._fd, text)
        except OSError as error:
            self._lose(error)
            return
        self._is_torn = written < len(text)
        if self._is_torn:
            self._lose(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def close(self) -> None:
        """Lets the file go."""
        os.close(self._fd)

    def _lose(self, error: OSError) -> None:
        self.lost += 1
        if not self._has_warned:
            self._has_warned = True
            self._warn(explained(error, self.path))


def read(path: Path) -> Recorded:
    """Returns the span that a log's last line is of; lines that are not whole are passed over.

    Raises:
        ZhcacheError: It is not there, closed, or holds no sample.
    """
    try:
        with path.open("rb") as file:
            found = _last_span(file)
    except OSError as error:
        raise explained(error, path) from error
    if found is None:
        raise UsageError(
            "{file} holds no sample of `zhcache monitor`",
            hint="write one with `zhcache monitor --log FILE`",
            file=path,
        )
    return found


def _last_span(lines: Iterable[bytes]) -> Recorded | None:
    decoder = msgspec.json.Decoder(Line)
    spans: dict[str, Recorded] = {}
    for line in lines:
        try:
            found = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError):
            continue
        if isinstance(found, Sample) and not 0 <= found.time < _MOST_TIME:
            continue
        known = spans.get(found.span)
        if known is None or known.has_ended_before(found):
            if not isinstance(found, Sample):
                continue
            known = Recorded()
        known.add(found)
        # The one that was written to last stands last.
        spans.pop(found.span, None)
        spans[found.span] = known
        if len(spans) > _MOST_OPEN:
            del spans[next(iter(spans))]
    return spans.popitem()[1] if spans else None


def _ends_within_a_line(fd: int) -> bool:
    end = os.fstat(fd).st_size
    return end > 0 and os.pread(fd, 1, end - 1) != b"\n"


def explained(error: OSError, path: Path) -> ZhcacheError:
    """Returns what an error of a log or a plot means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            "no room to write {file}", hint=mark("what is measured goes on; make room"), file=path
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotPermitted("no permission for {file}", file=path)
    if error.errno == errno.ENOENT:
        return NotFound("there is no {file}", file=path)
    return ZhcacheError(
        "{file} cannot be used: {reason}", file=path, reason=error.strerror or error
    )
