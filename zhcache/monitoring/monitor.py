"""``zhcache.monitor()``: what a piece of a program takes of the machine, measured beside it.

::

    with zhcache.monitor(log="run.jsonl") as m:
        image = pipe("一只猫").images[0]
    print(m.seconds, m.peak.rss, m.peak.vram)

A thread takes a sample at each interval. Peaks of memory do not depend on it: the kernel keeps that
of each process, torch that of its allocator; both are made to begin anew when monitoring starts, so
``torch.cuda.max_memory_allocated`` of the program itself begins there too. What NVML says is
sampled. Monitors may be nested and may run side by side. A fork does not take them along.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

from zhcache.errors import UsageError, ZhcacheError
from zhcache.i18n import mark, message_of
from zhcache.monitoring import procfs
from zhcache.monitoring.log import Log
from zhcache.monitoring.records import Peak, Sample, Summary
from zhcache.monitoring.span import Span

LEAST_INTERVAL_S = 0.05
MOST_INTERVAL_S = 3600.0
Which = Literal["tree", "all"] | Iterable[int]
_Chosen = str | list[int]


class Monitor:
    """Measures while it is entered. Its properties may be read meanwhile and after. Thread-safe.

    Args:
        interval: Seconds between two samples.
        log: A file that each sample is added to as a line of JSON.
        processes: ``"tree"``: this process and what it starts. ``"all"``: every process of the
            machine that uses a GPU, a hundredth of a core or of the memory. Or process ids: these
            and what they start.
        by_hand: Whether samples are taken by ``tick`` alone, and no thread is started.
        warn: Called with what goes wrong meanwhile; by default it is logged as a warning.

    Raises:
        UsageError: An argument is none, psutil is not installed, or this is not Linux.
    """

    def __init__(
        self,
        interval: float = 0.5,
        log: str | os.PathLike[str] | None = None,
        processes: Which = "tree",
        *,
        by_hand: bool = False,
        warn: Callable[[ZhcacheError], None] | None = None,
    ) -> None:
        self._interval_s = _checked(interval)
        self._processes = _named(processes)
        self._log_path = None if log is None else Path(log)
        self._by_hand, self._warn = by_hand, warn or _log_warning
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._span: Span | None = None
        self._owner = 0
        self._seconds: float | None = None
        self._has_warned = False

    def __enter__(self) -> Monitor:
        """Starts to measure."""
        if self._span is not None:
            raise UsageError("a monitor measures once", hint="make another: zhcache.monitor()")
        self._owner = os.getpid()
        log = None if self._log_path is None else Log(self._log_path, self._warn)
        try:
            self._span = Span(self._processes, self._owner, log)
        except BaseException:
            if log is not None:
                log.close()
            raise
        with _registry:
            # Those around this one look once more, before the kernel's and torch's counts begin
            # anew: what was reached until now is theirs.
            for other in _active:
                other.tick()
            self._span.begin_peaks()
            _active.append(self)
        if not self._by_hand:
            self.tick()
            self._thread = threading.Thread(target=self._run, name="zhcache-monitor", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes the last sample and ends; does nothing the second time, or in a forked child."""
        span = self._span
        if span is None or self._seconds is not None or os.getpid() != self._owner:
            return
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with _registry:
            if self in _active:
                _active.remove(self)
        with self._lock:
            self.tick()
            # Another thread, or a warning's receiver, may have ended it meanwhile.
            if self._seconds is not None:
                return
            self._seconds = time.monotonic() - span.began
            span.close(self._seconds)

    def tick(self) -> Sample | None:
        """Takes a sample now, beside those at each interval; returns it, or None if it cannot."""
        with self._lock:
            if self._span is None or self._seconds is not None or os.getpid() != self._owner:
                return None
            try:
                return self._span.take()
            except OSError as error:
                # No descriptors left, or no memory: the program that is measured has worse to do.
                if not self._has_warned:
                    self._has_warned = True
                    text = mark("a sample could not be taken: {reason}")
                    self._warn(ZhcacheError(text, reason=error.strerror or error))
                return None

    def label(self, models: Mapping[int, str]) -> None:
        """Tells which processes hold which model; shown in the samples from now on."""
        with self._lock:
            self._begun().sampler.models = dict(models)

    @property
    def seconds(self) -> float:
        """How long it has measured, or did."""
        return time.monotonic() - self._begun().began if self._seconds is None else self._seconds

    @property
    def samples(self) -> list[Sample]:
        """The samples, oldest first: all of a short span, evenly spaced ones of a long one."""
        with self._lock:
            return self._begun().kept.samples

    @property
    def peak(self) -> Peak:
        """The highest of everything until now."""
        with self._lock:
            return self._begun().peak

    def summary(self) -> Summary:
        """Returns the whole span in one record."""
        with self._lock:
            return self._begun().summary(self.seconds)

    def _run(self) -> None:
        due = time.monotonic() + self._interval_s
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self.tick()
            # Late samples are left out, not made up for in a hurry.
            due = max(due + self._interval_s, time.monotonic())

    def _begun(self) -> Span:
        if self._span is None:
            raise UsageError("this monitor has not begun", hint="with zhcache.monitor() as m: ...")
        return self._span

    def add(self, pid: int) -> None:
        """Watches one more process and what it starts."""
        with self._lock:
            self._begun().sampler.add(pid)

    def waited(self, usage: resource.struct_rusage) -> None:
        """Takes in what ``wait4`` told of a watched child: all of it, to its last breath."""
        with self._lock:
            self._begun().take_ended(usage)

    @property
    def is_over(self) -> bool:
        """Whether every watched process has ended."""
        with self._lock:
            return self._begun().sampler.is_over

    def _forget_after_fork(self) -> None:
        # The thread is not here, and whoever held the lock neither.
        self._lock = threading.RLock()


monitor = Monitor


def _checked(interval: float) -> float:
    if sys.platform != "linux":
        raise UsageError("monitoring reads /proc, which {system} has not", system=sys.platform)
    if not LEAST_INTERVAL_S <= interval <= MOST_INTERVAL_S:
        raise UsageError(
            "{interval} is no interval between two samples",
            hint="seconds, from {least} to {most}",
            interval=interval,
            least=LEAST_INTERVAL_S,
            most=MOST_INTERVAL_S,
        )
    return float(interval)


def _named(processes: Which) -> _Chosen:
    if isinstance(processes, str):
        if processes not in ("tree", "all"):
            raise UsageError(
                "{processes} is no choice of processes",
                hint='"tree", "all", or a list of process ids',
                processes=repr(processes),
            )
        return processes
    chosen = list(processes)
    for pid in chosen:
        if procfs.head(pid) is None:
            raise UsageError("there is no process {pid}", pid=pid)
    return chosen


def _log_warning(error: ZhcacheError) -> None:
    logging.getLogger("zhcache.monitoring").warning("%s", message_of(error))


_registry = threading.RLock()
_active: list[Monitor] = []


def _after_fork() -> None:
    global _registry  # noqa: PLW0603 - whoever held it is not in this process
    _registry = threading.RLock()
    for one in _active:
        one._forget_after_fork()
    _active.clear()


def _at_exit() -> None:
    for one in list(_active):
        with contextlib.suppress(ZhcacheError, OSError):
            one.stop()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
