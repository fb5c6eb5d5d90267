"""The summary of a log: the one it ends with, or of one that was cut off what its samples say."""

from __future__ import annotations

from collections.abc import Sequence

from zhcache.monitoring.records import (
    GpuPeak,
    Line,
    Peak,
    ProcessPeak,
    Sample,
    Summary,
)

_PROCESSES_TOLD = 20


def samples_of(lines: Sequence[Line]) -> list[Sample]:
    """Returns the samples among the lines of a span."""
    return [line for line in lines if isinstance(line, Sample)]


def summary_of(lines: Sequence[Line]) -> Summary:
    """Returns the summary of a span; without its last line, all peaks are by samples.

    Args:
        lines: Of one span, at least one sample.
    """
    if isinstance(lines[-1], Summary):
        return lines[-1]
    samples = samples_of(lines)
    return Summary(
        schema=1,
        seconds=round(samples[-1].elapsed - samples[0].elapsed, 3),
        samples=len(samples),
        peak=_peak(samples),
        processes=_processes(samples),
    )


def _peak(samples: Sequence[Sample]) -> Peak:
    vrams = [[p.vram for p in s.processes if p.vram is not None] for s in samples]
    held = [vram for vram in vrams if vram]
    cpus = [[p.cpu for p in s.processes if p.cpu is not None] for s in samples]
    used = [cpu for cpu in cpus if cpu]
    gpus: dict[str, GpuPeak] = {}
    for gpu in (gpu for sample in samples for gpu in sample.gpus):
        peak = gpus.setdefault(
            gpu.uuid, GpuPeak(uuid=gpu.uuid, index=gpu.index, used=0, total=gpu.total)
        )
        peak.used = max(peak.used, gpu.used)
        if gpu.busy is not None:
            peak.busy = max(peak.busy or 0.0, gpu.busy)
    return Peak(
        rss=max((p.rss for s in samples for p in s.processes), default=None),
        rss_together=max(
            (sum(p.rss for p in s.processes) for s in samples if s.processes), default=None
        ),
        cpu=round(max(map(sum, used)), 1) if used else None,
        vram=max(map(max, held)) if held else None,
        vram_together=max(map(sum, held)) if held else None,
        gpus=list(gpus.values()),
    )


def _processes(samples: Sequence[Sample]) -> list[ProcessPeak]:
    found: dict[tuple[int, str], ProcessPeak] = {}
    for use in (use for sample in samples for use in sample.processes):
        peak = found.setdefault(
            (use.pid, use.command),
            ProcessPeak(pid=use.pid, command=use.command, uid=use.uid, rss=0),
        )
        peak.rss = max(peak.rss, use.rss)
        peak.model = use.model or peak.model
        if use.vram is not None:
            peak.vram = max(peak.vram or 0, use.vram)
    return sorted(found.values(), key=lambda one: (one.vram or 0, one.rss), reverse=True)[
        :_PROCESSES_TOLD
    ]
