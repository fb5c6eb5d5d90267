"""A child that takes memory and time when it is told to, so that a test knows when it did."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

_PROGRAM = """
import sys, time
held = []
for line in sys.stdin:
    what, _, amount = line.partition(" ")
    if what == "touch":
        block = bytearray(int(amount) << 20)
        del block
    elif what == "hold":
        held.append(bytearray(int(amount) << 20))
    elif what == "burn":
        end = time.process_time() + float(amount)
        while time.process_time() < end:
            pass
    print("done", flush=True)
"""


class Child:
    """A Python process of its own; ``tell`` returns when it has done what it was told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Child:
        self.tell("nothing")
        return self

    def tell(self, words: str) -> None:
        """``touch MIB`` for a moment, ``hold MIB``, ``burn SECONDS`` of CPU, or anything."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        """Lets it end and waits for it."""
        self._process.communicate(timeout=60)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
