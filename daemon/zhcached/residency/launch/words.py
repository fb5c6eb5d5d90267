"""What a process says on its way, line by line and bounded: a worker may not fill the log."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

MAX_LINE = 2000
"""Bytes of one line that are kept."""

LINES = 100
WINDOW_S = 10.0
"""So many lines in so many seconds are passed on; the rest is counted."""

_AT_ONCE = 65536


class Words:
    """Reads a pipe and passes its lines on.

    Args:
        fd: The pipe's end to read from, which stays the caller's.
        say: Takes a line.
    """

    def __init__(self, fd: int, say: Callable[[str], object]) -> None:
        self._fd = fd
        self._say = say
        self._rest = b""
        self._window = time.monotonic()
        self._said = 0
        self._dropped = 0
        self.last: deque[str] = deque(maxlen=20)
        os.set_blocking(fd, False)

    def take(self) -> bool:
        """Passes on what has come; False once the pipe has ended."""
        try:
            part = os.read(self._fd, _AT_ONCE)
        except BlockingIOError:
            return True
        *lines, rest = (self._rest + part).split(b"\n")
        for line in lines:
            self._pass_on(line)
        # A line without an end must not grow for ever; its beginning is enough.
        self._rest = rest[:MAX_LINE]
        if not part and self._rest:
            self._pass_on(self._rest)
            self._rest = b""
        return bool(part)

    def drain(self) -> None:
        """Passes on what lies in the pipe now, and waits for nothing."""
        for _ in range(LINES):
            try:
                part = os.read(self._fd, _AT_ONCE)
            except (BlockingIOError, OSError):
                part = b""
            if not part:
                break
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                self._pass_on(line)
        if self._rest:
            self._pass_on(self._rest)
            self._rest = b""
        self._count()

    def _pass_on(self, line: bytes) -> None:
        # A progress bar rewrites its line; what it says last is what it says.
        text = line[-MAX_LINE:].rpartition(b"\r")[2].decode("utf-8", "replace").rstrip()
        if not text:
            return
        now = time.monotonic()
        if now - self._window > WINDOW_S:
            self._count()
            self._window, self._said = now, 0
        self.last.append(text)
        if self._said < LINES:
            self._said += 1
            self._say(text)
        else:
            self._dropped += 1

    def _count(self) -> None:
        if self._dropped:
            self._say(f"({self._dropped} more lines were said and not kept)")
            self._dropped = 0
