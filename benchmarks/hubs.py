"""The demo hub in a process of its own, with one random file to serve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import FILE, REPO, ROOT

_STEP = 8 << 20


@dataclass(frozen=True, slots=True)
class HubProcess:
    """A running hub: ``url`` and ``name`` as the daemon's harness wants them."""

    url: str
    pid: int
    name: str = "hub"

    @property
    def file_url(self) -> str:
        """Where the file can be had without knowing the protocol."""
        return f"{self.url}/{REPO}/resolve/main/{FILE}"


def random_file(folder: Path, size: int) -> Path:
    """Makes the file to serve and returns its path; its pages are in the cache afterwards."""
    folder.mkdir(parents=True)
    path = folder / FILE
    with path.open("wb") as file:
        for start in range(0, size, _STEP):
            file.write(os.urandom(min(_STEP, size - start)))
        file.flush()
        os.fsync(file.fileno())
    return path


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[HubProcess]:
    """Serves ``folder`` as a repository until the block ends; ``options`` are the hub's own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "demohub", "--repo", f"{REPO}={folder}", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT / "examples")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the demo hub did not start")
        yield HubProcess(url, process.pid)
    finally:
        process.terminate()
        process.wait(30)
