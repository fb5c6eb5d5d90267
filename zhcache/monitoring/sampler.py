"""One look at everything that is monitored: readings of all parts, put together as a sample."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

from zhcache.monitoring import procfs
from zhcache.monitoring.gpus import Gpus, Share
from zhcache.monitoring.growth import Growth, growth, same
from zhcache.monitoring.machine import Machine
from zhcache.monitoring.peaks import Peaks
from zhcache.monitoring.procfs import Reading
from zhcache.monitoring.records import ProcessUse, Sample
from zhcache.monitoring.watched import Tree, Watched

_PSS_EVERY_S = 5.0
_PSS_REST = 500
"""How many times as long as a walk of a process's page tables lasted, there is no other."""


class Sampler:
    """Takes samples and folds them into ``peaks``. Use from one thread at a time.

    Args:
        watched: Finds the processes.
        machine: The machine.
        gpus: The GPUs.
    """

    def __init__(self, watched: Watched, machine: Machine, gpus: Gpus) -> None:
        self.peaks = Peaks()
        self.span = secrets.token_hex(8)
        self.models: Mapping[int, str] = {}
        self._watched, self._machine, self._gpus = watched, machine, gpus
        self._before: dict[int, Reading] | None = None
        self._commands: dict[int, tuple[int, str, str]] = {}
        self._pss: dict[int, tuple[float, int | None]] = {}
        self._pss_rests_until = 0.0
        self._began = self._last = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether none of the watched processes was there at the last look."""
        return isinstance(self._watched, Tree) and self._watched.is_gone

    def add(self, pid: int) -> None:
        """Watches one more process and what it starts."""
        if isinstance(self._watched, Tree):
            self._watched.add(pid)

    def reset_peaks(self) -> None:
        """Lets the kernel's peaks of the watched tree begin now, where they may be touched."""
        if isinstance(self._watched, Tree):
            for pid in self._watched.look(0.0):
                procfs.reset_peak(pid)

    def take(self) -> Sample:
        """Returns what there is now."""
        now = time.monotonic()
        seconds = max(now - self._last, 1e-6)
        found = self._gpus.look()
        readings = self._watched.look(
            0.0 if self._before is None else seconds, found.by_process.keys()
        )
        # What everybody used before the first look is nobody's use in this span.
        growths = {} if self._before is None else growth(self._before, readings)
        sample = Sample(
            schema=1,
            time=round(time.time(), 3),
            elapsed=round(now - self._began, 3),
            machine=self._machine.look(),
            gpus=found.devices,
            span=self.span,
            processes=[
                self._use(reading, growths.get(pid), seconds, found.by_process.get(pid), now)
                for pid, reading in readings.items()
                if reading.uid >= 0
            ],
        )
        before = self._before
        newborn = [] if before is None else _newborn(before, readings.values())
        self.peaks.add(sample, readings, growths, newborn)
        if growths:
            used = sum(one.cpu + one.cpu_of_ended for one in growths.values())
            self.peaks.add_cpu(100 * used / seconds)
        self._before, self._last = readings, now
        self._forget()
        return sample

    def _use(
        self,
        reading: Reading,
        grown: Growth | None,
        seconds: float,
        share: Share | None,
        now: float,
    ) -> ProcessUse:
        pid = reading.pid
        use = ProcessUse(
            pid=pid,
            command=self._command(reading),
            uid=reading.uid,
            rss=reading.rss,
            pss=self._share_of_memory(reading, now),
            model=self.models.get(pid),
        )
        if grown is not None:
            use.cpu = round(100 * grown.cpu / seconds, 1)
            use.read = None if grown.read is None else round(grown.read / seconds, 1)
            use.written = None if grown.written is None else round(grown.written / seconds, 1)
        if share is not None:
            use.vram = share.vram
            use.gpu = None if share.busy is None else round(share.busy, 1)
        return use

    def _command(self, reading: Reading) -> str:
        known = self._commands.get(reading.pid)
        # It may begin another program as the same process; then the kernel's name changes.
        if known is None or known[:2] != (reading.started, reading.name):
            known = (reading.started, reading.name, procfs.command(reading))
            # One that is just beginning a program has the new name and memory, and no command line
            # yet: what was read in that moment would be its name for good.
            if not known[2].startswith("[") or not reading.rss:
                self._commands[reading.pid] = known
        return known[2]

    def _share_of_memory(self, reading: Reading, now: float) -> int | None:
        due, value = self._pss.get(reading.pid, (now + _PSS_EVERY_S / 5, None))
        if now >= max(due, self._pss_rests_until):
            began = time.monotonic()
            value = procfs.pss(reading.pid)
            took = time.monotonic() - began
            due, self._pss_rests_until = now + _PSS_EVERY_S, now + took * _PSS_REST
        self._pss[reading.pid] = (due, value)
        return value

    def _forget(self) -> None:
        there = self._before or {}
        kept: tuple[dict[int, Any], ...] = (self._commands, self._pss)
        for known in kept:
            for pid in known.keys() - there.keys():
                del known[pid]


def _newborn(before: Mapping[int, Reading], now: Iterable[Reading]) -> list[int]:
    return [one.pid for one in now if same(before, one) is None]
