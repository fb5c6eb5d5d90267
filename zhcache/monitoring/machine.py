"""The machine as a whole: cores, memory and network, by psutil."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from zhcache.errors import UsageError
from zhcache.monitoring.records import MachineUse


def library() -> Any:
    """Returns psutil.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import psutil
    except ImportError:
        raise UsageError(
            "monitoring needs psutil, which is not installed",
            hint="pip install 'zhcache[monitor]'",
        ) from None
    return psutil


class Machine:
    """Asked for what changed since it was asked before; keeps nothing that psutil shares.

    psutil's own differences (``cpu_percent``) are common to a whole process: whoever monitors its
    own program would change what the program itself is told.
    """

    def __init__(self) -> None:
        self._psutil = library()
        self.memory = int(self._psutil.virtual_memory().total)
        self._before: tuple[float, float, float, int, int] | None = None
        self.received = 0
        self.sent = 0

    def look(self) -> MachineUse:
        """Returns what is in use now; rates from the second time on."""
        memory = self._psutil.virtual_memory()
        total, idle = self._cores()
        received, sent = self._network()
        now = (time.monotonic(), total, idle, received, sent)
        before, self._before = self._before, now
        used = MachineUse(memory=memory.total - memory.available, memory_total=memory.total)
        if before is None:
            return used
        seconds = max(now[0] - before[0], 1e-6)
        if total > before[1]:
            share = 1 - max(0.0, idle - before[2]) / (total - before[1])
            used.cpu = round(100 * min(1.0, max(0.0, share)), 1)
        # An interface that went away takes its counters with it.
        more_in, more_out = max(0, received - before[3]), max(0, sent - before[4])
        self.received += more_in
        self.sent += more_out
        used.received, used.sent = round(more_in / seconds, 1), round(more_out / seconds, 1)
        return used

    def _cores(self) -> tuple[float, float]:
        times = self._psutil.cpu_times()
        # What guests use is contained in "user" and "nice".
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return total, times.idle + getattr(times, "iowait", 0.0)

    def _network(self) -> tuple[int, int]:
        found = self._psutil.net_io_counters(pernic=True, nowrap=False)
        names = [name for name in found if name != "lo"]
        # What a bridge or a container's interface carries goes through a real one as well.
        real = [name for name in names if Path(f"/sys/class/net/{name}/device").exists()]
        chosen = real or names
        return (
            sum(found[name].bytes_recv for name in chosen),
            sum(found[name].bytes_sent for name in chosen),
        )
