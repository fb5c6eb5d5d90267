"""All that is open while a monitor runs, and what it has found. Use under the monitor's lock."""

from __future__ import annotations

import os
import resource
import time

from zhcache.monitoring import allocator, procfs
from zhcache.monitoring.cgroup import GroupPeak
from zhcache.monitoring.gpus import Gpus
from zhcache.monitoring.kept import Kept
from zhcache.monitoring.log import Log
from zhcache.monitoring.machine import Machine
from zhcache.monitoring.records import Peak, Sample, Summary, TorchPeak
from zhcache.monitoring.sampler import Sampler
from zhcache.monitoring.watched import watched

_PROCESSES_TOLD = 20
_BLOCK = 512
"""Bytes of a block as getrusage counts them."""


class Span:
    """One stretch of time that is measured.

    Args:
        processes: ``tree``, ``all`` or process ids.
        own: This process's id.
        log: Where samples go as well; it is closed with the span.
    """

    def __init__(self, processes: str | list[int], own: int, log: Log | None) -> None:
        self._machine = Machine()
        self._gpus = Gpus()
        found = watched(processes, own, lambda: self._machine.memory)
        self.sampler = Sampler(found, self._machine, self._gpus)
        self.kept = Kept()
        self.began = time.monotonic()
        self._group, self._group_peak = GroupPeak(), None
        self._log = log
        self._torch: dict[str, TorchPeak] = {}
        self._has_own_children = processes == "tree"
        self._children_before = _children_peak()

    def begin_peaks(self) -> None:
        """Lets the counts of the kernel and of torch begin now, where they may be touched."""
        note_own_peak()
        self.sampler.reset_peaks()
        if self._has_own_children:
            allocator.reset()

    def take(self) -> Sample:
        """Takes a sample and keeps what it tells."""
        sample = self.sampler.take()
        for device, found in allocator.peaks().items():
            before = self._torch.get(device, found)
            self._torch[device] = TorchPeak(
                allocated=max(before.allocated, found.allocated),
                reserved=max(before.reserved, found.reserved),
            )
        self._group_peak = self._group.read()
        if self._has_own_children and (children := _children_peak()) > self._children_before:
            # Of one that may have come and gone between two samples.
            self._take_child_peak(children)
        self.kept.add(sample)
        if self._log is not None:
            self._log.write(sample)
        return sample

    def take_ended(self, usage: resource.struct_rusage) -> None:
        """Takes in what ``wait4`` told of a child."""
        self._take_child_peak(usage.ru_maxrss * 1024)
        self.sampler.peaks.add_ended(
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            read=usage.ru_inblock * _BLOCK,
            written=usage.ru_oublock * _BLOCK,
        )

    @property
    def peak(self) -> Peak:
        """The highest of everything until now."""
        found = self.sampler.peaks.peak
        found.torch = dict(self._torch)
        found.cgroup = self._group_peak
        return found

    def summary(self, seconds: float) -> Summary:
        """Returns all of it in one record."""
        peaks = self.sampler.peaks
        return Summary(
            schema=1,
            seconds=round(seconds, 3),
            samples=self.kept.count,
            peak=self.peak,
            processes=peaks.processes(_PROCESSES_TOLD),
            cpu_seconds=round(peaks.cpu_seconds, 3),
            read=peaks.read,
            written=peaks.written,
            received=self._machine.received,
            sent=self._machine.sent,
            span=self.sampler.span,
        )

    def close(self, seconds: float) -> None:
        """Ends the log and lets go of everything."""
        if self._log is not None:
            self._log.write(self.summary(seconds))
            self._log.close()
        self._gpus.close()
        self._group.close()

    def _take_child_peak(self, rss: int) -> None:
        # A child that has not yet begun its own program counts with what it was forked from: with
        # this very process. So only what is above this process's own peak is a child's.
        if rss > note_own_peak():
            self.sampler.peaks.add_child(rss)


def _children_peak() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def note_own_peak() -> int:
    """Returns the highest memory this process ever had; keeps it before it is reset.

    Not of getrusage: that counts what it was forked from as well, which may have been far larger,
    and every smaller child would be taken for it.
    """
    now = procfs.whole(os.getpid())
    _own_peak[0] = max(_own_peak[0], now.peak or 0 if now else 0)
    return _own_peak[0]


_own_peak = [0]
