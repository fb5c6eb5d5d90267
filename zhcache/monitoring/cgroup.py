"""The true peak of memory of the control group that this process is in, page cache included.

Source: the kernel's cgroup-v2.rst, ``memory.peak`` (writable from 6.12: what is read through a
descriptor that was written to, is the peak since), and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_NAMES = {"0": "memory.peak", "memory": "memory.max_usage_in_bytes"}


class GroupPeak:
    """Open from the start of a span to its end."""

    def __init__(self) -> None:
        self._fd, self._at_start = -1, 0
        for path in _files():
            # Read and write: only then it can be made to begin now, and only for us.
            for flags in (os.O_RDWR, os.O_RDONLY):
                try:
                    self._fd = os.open(path, flags | os.O_CLOEXEC)
                except OSError:
                    continue
                break
            if self._fd >= 0:
                self._begin(path.name)
                return

    def _begin(self, name: str) -> None:
        if name == _NAMES["0"]:
            with contextlib.suppress(OSError):
                os.write(self._fd, b"reset\n")
                return
        # Writing to the older file would reset it for everybody.
        self._at_start = self._read() or 0

    def read(self) -> int | None:
        """Returns the peak since the start; None where it was reached before, or is not told."""
        now = self._read()
        return None if now is None or now <= self._at_start else now

    def close(self) -> None:
        """Lets the file go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> int | None:
        if self._fd < 0:
            return None
        try:
            return int(os.pread(self._fd, 64, 0))
        except (OSError, ValueError):
            return None


def _files() -> list[Path]:
    """Returns where the peak may be read, the newer form first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if number == "0":
            # The top has no such file: it has no limit, and no peak.
            found.insert(0, _MOUNT / inside / _NAMES["0"])
            found.insert(1, _MOUNT / "unified" / inside / _NAMES["0"])
        elif "memory" in controllers.split(","):
            found.append(_MOUNT / "memory" / inside / _NAMES["memory"])
    return found
