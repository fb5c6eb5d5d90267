"""Processes as /proc shows them: three small files each, ten microseconds each.

Source: proc_pid_stat(5), proc_pid_status(5), proc_pid_io(5), proc_pid_clear_refs(5).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RESET_PEAK = b"5"
_MOST = 16_384
_COMMAND_SHOWN = 200
_GONE_OR_CLOSED = (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Reading:
    """One process at one moment.

    Attributes:
        pid: Its id.
        parent: Its parent's.
        started: Clock ticks after boot; with ``pid`` this names a process.
        name: The kernel's name for it, at most 15 bytes.
        cpu: Seconds it used itself, user and system.
        cpu_reaped: Seconds that children used which ended and were waited for.
        rss: Bytes.
        peak: The highest ``rss`` since it began a program, or since somebody reset it; None where
            only the head was read.
        uid: Its effective user.
        read: Bytes from the disk, by it and children it waited for; None for other users'.
        written: Bytes to the disk, likewise.
    """

    pid: int
    parent: int
    started: int
    name: str
    cpu: float
    cpu_reaped: float
    rss: int
    peak: int | None = None
    uid: int = -1
    read: int | None = None
    written: int | None = None


def pids() -> list[int]:
    """Returns every process there is and may be seen."""
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def head(pid: int) -> Reading | None:
    """Returns what one file says of a process, or None if it has ended."""
    text = _read(pid, "stat")
    if text is None:
        return None
    # The name may hold spaces and parentheses of its own.
    before, _, after = text.rpartition(b")")
    words = after.split()
    if words[0] in (b"Z", b"X"):
        return None
    return Reading(
        pid=pid,
        parent=int(words[1]),
        started=int(words[19]),
        name=before.partition(b"(")[2].decode(errors="replace"),
        cpu=(int(words[11]) + int(words[12])) / _TICKS_PER_S,
        cpu_reaped=(int(words[13]) + int(words[14])) / _TICKS_PER_S,
        rss=int(words[21]) * _PAGE,
    )


def whole(pid: int) -> Reading | None:
    """Returns all that is read of a process at each sample, or None if it has ended."""
    first, status = head(pid), _read(pid, "status")
    if first is None or status is None:
        return None
    peak, uid = _field(status, b"VmHWM:"), _field(status, b"Uid:", 1)
    traffic = _read(pid, "io")
    return Reading(
        pid=pid,
        parent=first.parent,
        started=first.started,
        name=first.name,
        cpu=first.cpu,
        cpu_reaped=first.cpu_reaped,
        rss=first.rss,
        # Threads of the kernel have no memory, and no such line.
        peak=None if peak is None else peak * 1024,
        uid=-1 if uid is None else uid,
        read=None if traffic is None else _field(traffic, b"read_bytes:"),
        written=None if traffic is None else _field(traffic, b"write_bytes:"),
    )


def command(reading: Reading) -> str:
    """Returns the beginning of a process's command line; its name in brackets if it has none."""
    words = (_read(reading.pid, "cmdline") or b"").rstrip(b"\0")
    # Code given with -c has lines of its own.
    text = " ".join(words.replace(b"\0", b" ").decode(errors="replace").split())[:_COMMAND_SHOWN]
    return text or f"[{reading.name}]"


def pss(pid: int) -> int | None:
    """Returns a process's share of the memory it uses; None if it may not be asked.

    Walks all its page tables and holds its memory map meanwhile: milliseconds for each GiB.
    """
    text = _read(pid, "smaps_rollup")
    found = None if text is None else _field(text, b"Pss:")
    return None if found is None else found * 1024


def reset_peak(pid: int) -> bool:
    """Lets a process's peak memory begin at what it has now; tells whether that was allowed."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_bytes(_RESET_PEAK)
    except OSError:
        return False
    return True


def _read(pid: int, name: str) -> bytes | None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, _MOST)
        finally:
            os.close(fd)
    except OSError as error:
        # Of anything else, as where no descriptors are left, nothing follows for the process.
        if error.errno in _GONE_OR_CLOSED:
            return None
        raise


def _field(text: bytes, name: bytes, number: int = 0) -> int | None:
    # Every name that is looked for stands once, as the beginning of a line.
    _, found, rest = text.partition(b"\n" + name)
    if not found:
        _, found, rest = text.partition(name) if text.startswith(name) else (b"", b"", b"")
    return int(rest.partition(b"\n")[0].split()[number]) if found else None
