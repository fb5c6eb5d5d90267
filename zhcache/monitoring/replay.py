"""A span as its log tells it, taken in line by line in bounded memory, and summed up.

The summary is the one that the span ended with; of one that was cut off, what its samples say.
"""

from __future__ import annotations

from typing import TypeVar

from zhcache.monitoring.kept import Kept
from zhcache.monitoring.records import (
    GpuPeak,
    Line,
    Peak,
    ProcessPeak,
    ProcessUse,
    Sample,
    Summary,
)

N = TypeVar("N", int, float)

_PROCESSES_TOLD = 20
_MAX_PROCESSES = 256


class Recorded:
    """One span of a log."""

    def __init__(self) -> None:
        self._kept = Kept()
        self._first = self._last = 0.0
        self._ended: Summary | None = None
        self._peak = Peak()
        self._gpus: dict[str, GpuPeak] = {}
        self._processes: dict[tuple[int, str], ProcessPeak] = {}
        self._cpu_seconds = 0.0

    def add(self, line: Line) -> None:
        """Takes the next line in."""
        if isinstance(line, Summary):
            self._ended = line
            return
        if not self._kept.count:
            self._first = self._last = line.elapsed
        seconds, self._last = line.elapsed - self._last, line.elapsed
        self._kept.add(line)
        self._fold(line)
        for use in line.processes:
            self._process(use, seconds)
        for gpu in line.gpus:
            peak = self._gpus.setdefault(
                gpu.uuid, GpuPeak(uuid=gpu.uuid, index=gpu.index, used=0, total=gpu.total)
            )
            peak.used = max(peak.used, gpu.used)
            peak.busy = _highest(peak.busy, gpu.busy)

    def has_ended_before(self, line: Line) -> bool:
        """Whether a line is of a later span: this one has its summary, or time went back."""
        is_earlier = isinstance(line, Sample) and line.elapsed < self._last
        return self._ended is not None or is_earlier

    @property
    def samples(self) -> list[Sample]:
        """Its samples, evenly spaced where they are too many."""
        return self._kept.samples

    @property
    def summary(self) -> Summary:
        """The whole span; ``cut_off`` where it has no end and all is by samples."""
        if self._ended is not None:
            return self._ended
        self._peak.gpus = list(self._gpus.values())
        return Summary(
            schema=1,
            seconds=round(self._last - self._first, 3),
            samples=self._kept.count,
            peak=self._peak,
            processes=sorted(self._processes.values(), key=_weight, reverse=True)[:_PROCESSES_TOLD],
            cpu_seconds=round(self._cpu_seconds, 3),
            cut_off=True,
        )

    def _fold(self, sample: Sample) -> None:
        peak, used = self._peak, sample.processes
        if used:
            peak.rss = _highest(peak.rss, max(one.rss for one in used))
            peak.rss_together = _highest(peak.rss_together, sum(one.rss for one in used))
        if cpus := [one.cpu for one in used if one.cpu is not None]:
            peak.cpu = _highest(peak.cpu, round(sum(cpus), 1))
        if held := [one.vram for one in used if one.vram is not None]:
            peak.vram = _highest(peak.vram, max(held))
            peak.vram_together = _highest(peak.vram_together, sum(held))

    def _process(self, use: ProcessUse, seconds: float) -> None:
        key = (use.pid, use.command)
        if key not in self._processes:
            self._make_room()
        peak = self._processes.setdefault(
            key, ProcessPeak(pid=use.pid, command=use.command, uid=use.uid, rss=0)
        )
        peak.rss, peak.vram = max(peak.rss, use.rss), _highest(peak.vram, use.vram)
        peak.model = use.model or peak.model
        # Percent of the time since the sample before.
        used = (use.cpu or 0.0) / 100 * seconds
        self._cpu_seconds += used
        peak.cpu_seconds = round(peak.cpu_seconds + used, 3)

    def _make_room(self) -> None:
        if len(self._processes) >= 2 * _MAX_PROCESSES:
            ordered = sorted(self._processes.items(), key=lambda item: _weight(item[1]))
            for key, _ in ordered[:_MAX_PROCESSES]:
                del self._processes[key]


def _weight(peak: ProcessPeak) -> tuple[int, int]:
    return peak.vram or 0, peak.rss


def _highest(old: N | None, new: N | None) -> N | None:
    return old if new is None else new if old is None else max(old, new)
