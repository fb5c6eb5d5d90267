"""What processes used between two samples, the last breath of those that ended included. Pure.

A process that waits for a child which ended takes over that child's counters, of its whole life, at
once. What of this was counted while the child lived is taken off again, so that nothing is counted
twice, and what it used after the last look at it is not lost.

Source: ``wait_task_zombie`` in the kernel's exit.c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zhcache.monitoring.procfs import Reading


@dataclass(frozen=True, slots=True)
class Growth:
    """What one process used.

    Attributes:
        cpu: Seconds, its own.
        cpu_of_ended: Seconds of children that ended, as far as nobody counted them.
        read: Bytes from the disk, or None where the counters are closed to us.
        written: Bytes to the disk, likewise.
    """

    cpu: float
    cpu_of_ended: float = 0.0
    read: int | None = None
    written: int | None = None


@dataclass(slots=True)
class _Counted:
    """What was counted of children that have ended since."""

    cpu: float = 0.0
    read: int = 0
    written: int = 0


def growth(before: Mapping[int, Reading], now: Mapping[int, Reading]) -> dict[int, Growth]:
    """Returns what each process of ``now`` used since ``before``, by pid.

    A process that is not in ``before`` began since: all that it used counts.
    """
    counted = _counted(before, now)
    none = _Counted()
    return {pid: _of(same(before, one), one, counted.get(pid, none)) for pid, one in now.items()}


def same(among: Mapping[int, Reading], reading: Reading) -> Reading | None:
    """Returns what ``among`` has of the very process that ``reading`` is of: ids are used again."""
    found = among.get(reading.pid)
    return found if found is not None and found.started == reading.started else None


def _counted(before: Mapping[int, Reading], now: Mapping[int, Reading]) -> dict[int, _Counted]:
    found: dict[int, _Counted] = {}
    for gone in before.values():
        if same(now, gone) is not None:
            continue
        heir = _heir(gone, before, now)
        if heir is not None:
            counted = found.setdefault(heir, _Counted())
            counted.cpu += gone.cpu + gone.cpu_reaped
            counted.read += gone.read or 0
            counted.written += gone.written or 0
    return found


def _heir(gone: Reading, before: Mapping[int, Reading], now: Mapping[int, Reading]) -> int | None:
    """Returns the nearest ancestor alive, which waited for it, or for one that waited for it."""
    parent, seen = gone.parent, {gone.pid}
    while parent not in seen:
        seen.add(parent)
        older = before.get(parent)
        if older is None:
            return None
        if same(now, older) is not None:
            return parent
        parent = older.parent
    return None


def _of(old: Reading | None, new: Reading, counted: _Counted) -> Growth:
    reaped = new.cpu_reaped - (old.cpu_reaped if old else 0.0)
    return Growth(
        cpu=max(0.0, new.cpu - (old.cpu if old else 0.0)),
        cpu_of_ended=max(0.0, reaped - counted.cpu),
        read=_bytes(old.read if old else 0, new.read, counted.read),
        written=_bytes(old.written if old else 0, new.written, counted.written),
    )


def _bytes(old: int | None, new: int | None, counted: int) -> int | None:
    # Closed before or now: the difference would be a whole life's.
    return None if old is None or new is None else max(0, new - old - counted)
