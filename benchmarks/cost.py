"""What a program costs: wall time and CPU time of everything it started."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds. ``cpu_s`` is user and system time, children included."""

    wall_s: float
    cpu_s: float


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Cost:
    """Runs a program to its end.

    Raises:
        RuntimeError: It failed; the message has what it said.
    """
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            tail = said.read()[-2000:].decode(errors="replace")
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {tail}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime)


def cpu_s(pid: int) -> float:
    """Returns the CPU seconds a running process and the children it waited for have used.

    Source: proc_pid_stat(5), fields 14 to 17, in clock ticks.
    """
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, after_name[11:15])) / _TICKS_PER_S


def memory_kib(pid: int) -> dict[str, int]:
    """Returns ``Rss``, ``Pss`` and the other sums of a process's memory, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
