"""The machine a result was measured on, and how busy it was with other things."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from zhcache import __version__


def describe(distributions: Sequence[str] = (), programs: Sequence[str] = ()) -> dict[str, str]:
    """Returns what a reader needs to judge a number.

    Args:
        distributions: Python packages whose version matters.
        programs: Programs that answer ``--version``; ``openssl`` answers to ``version``.
    """
    told = {
        "CPU": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "zhcache": f"{__version__} {_commit()}".strip(),
    }
    for name in distributions:
        try:
            told[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            told[name] = "not installed"
    for name in programs:
        told[name] = _version_of(name)
    return told


def load() -> str:
    """Returns the load averages over 1, 5 and 15 minutes, this benchmark's own part included."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def filesystem(folder: Path) -> str:
    """Returns the type of the file system under ``folder``."""
    return _first_line("findmnt", "-n", "-o", "FSTYPE", "-T", str(folder))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory() -> str:
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    return f"{kib / 2**20:.1f} GiB"


def _commit() -> str:
    return _first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")


def _version_of(name: str) -> str:
    told = _first_line(name, "version" if name == "openssl" else "--version")
    return told.partition("(")[0].strip() or "not installed"


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.partition("\n")[0].strip()
