"""The highest of everything, and sums, folded sample by sample.

A process's highest resident memory is the kernel's own count, which misses nothing between two
samples. It counts where it was surely reached in this span: by a process that began in it, or where
it rose since it was first seen. Else the samples speak.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from zhcache.monitoring.growth import Growth
from zhcache.monitoring.procfs import Reading
from zhcache.monitoring.records import GpuPeak, Peak, ProcessPeak, ProcessUse, Sample

N = TypeVar("N", int, float)

_MAX_PROCESSES = 256


@dataclass(slots=True)
class _Known:
    """A process so far. ``floor``: up to here its peak may be older than the span."""

    peak: ProcessPeak
    floor: int


class Peaks:
    """What a span took at most, and in all."""

    def __init__(self) -> None:
        self._found = Peak()
        self._known: dict[tuple[int, int], _Known] = {}
        self._gpus: dict[str, GpuPeak] = {}
        self.cpu_seconds = 0.0
        self.read: int | None = None
        self.written: int | None = None

    def add(
        self,
        sample: Sample,
        readings: Mapping[int, Reading],
        growths: Mapping[int, Growth],
        newborn: Iterable[int] = (),
    ) -> None:
        """Folds one sample in.

        Args:
            sample: As it is shown.
            readings: Of the processes, as they were read.
            growths: What each used since the sample before; empty at the first.
            newborn: Processes that began in this span.
        """
        born = set(newborn)
        for use in sample.processes:
            self._process(use, readings[use.pid], growths.get(use.pid), is_new=use.pid in born)
        for grown in growths.values():
            self.cpu_seconds += grown.cpu + grown.cpu_of_ended
            self.read = _sum(self.read, grown.read)
            self.written = _sum(self.written, grown.written)
        found = self._found
        if sample.processes:
            together = sum(one.rss for one in sample.processes)
            found.rss_together = _highest(found.rss_together, together)
        held = [one.vram for one in sample.processes if one.vram is not None]
        if held:
            found.vram = _highest(found.vram, max(held))
            found.vram_together = _highest(found.vram_together, sum(held))
        for gpu in sample.gpus:
            old = self._gpus.get(gpu.uuid)
            self._gpus[gpu.uuid] = GpuPeak(
                uuid=gpu.uuid,
                index=gpu.index,
                total=gpu.total,
                used=max(gpu.used, old.used if old else 0),
                busy=_highest(old.busy if old else None, gpu.busy),
            )

    def add_cpu(self, percent: float) -> None:
        """Folds in what all processes used of the cores between two samples."""
        self._found.cpu = _highest(self._found.cpu, round(percent, 1))

    def add_child(self, rss: int) -> None:
        """Folds in the highest memory of a process that was waited for."""
        self._found.rss = _highest(self._found.rss, rss)

    def add_ended(self, *, cpu_seconds: float, read: int, written: int) -> None:
        """Takes in what a process and all it waited for used in their lives, which began here."""
        self.cpu_seconds = max(self.cpu_seconds, cpu_seconds)
        self.read = max(self.read or 0, read)
        self.written = max(self.written or 0, written)

    @property
    def peak(self) -> Peak:
        """The highest so far."""
        found = self._found
        return Peak(
            rss=_highest(found.rss, max((o.peak.rss for o in self._known.values()), default=None)),
            rss_together=found.rss_together,
            cpu=found.cpu,
            vram=found.vram,
            vram_together=found.vram_together,
            gpus=list(self._gpus.values()),
        )

    def processes(self, most: int) -> list[ProcessPeak]:
        """Returns those with the most memory."""
        ordered = sorted((one.peak for one in self._known.values()), key=_weight, reverse=True)
        return ordered[:most]

    def _process(
        self, use: ProcessUse, reading: Reading, grown: Growth | None, *, is_new: bool
    ) -> None:
        key = (reading.pid, reading.started)
        highest = reading.peak if reading.peak is not None else reading.rss
        known = self._known.get(key)
        if known is None:
            self._make_room()
            peak = ProcessPeak(pid=use.pid, command=use.command, uid=use.uid, rss=0)
            known = self._known[key] = _Known(peak, 0 if is_new else highest)
        # Lower than before: it began another program, or somebody reset it, in this span.
        known.floor = min(known.floor, highest)
        peak = known.peak
        peak.command, peak.model = use.command, use.model or peak.model
        peak.rss = max(peak.rss, reading.rss, highest if highest > known.floor else 0)
        peak.vram = _highest(peak.vram, use.vram)
        if grown is not None:
            peak.cpu_seconds = round(peak.cpu_seconds + grown.cpu, 3)
            peak.read = _sum(peak.read, grown.read)
            peak.written = _sum(peak.written, grown.written)

    def _make_room(self) -> None:
        # A build starts tens of thousands, one after the other. What was seen of the least of them
        # is in the sums; were it still alive, it would be met again as one that is not new.
        if len(self._known) >= 2 * _MAX_PROCESSES:
            ordered = sorted(self._known.items(), key=lambda item: _weight(item[1].peak))
            self._found.rss = self.peak.rss
            for key, _ in ordered[:_MAX_PROCESSES]:
                del self._known[key]


def _weight(peak: ProcessPeak) -> tuple[int, int]:
    return peak.vram or 0, peak.rss


def _highest(old: N | None, new: N | None) -> N | None:
    return old if new is None else new if old is None else max(old, new)


def _sum(old: int | None, more: int | None) -> int | None:
    return old if more is None else (old or 0) + more
