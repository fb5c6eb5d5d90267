"""A parallel worker as the daemon talks to one, and a plain one beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import families
from harness.rankfront import Front
from zhcached.residency.launch.launch import Remote

POSSIBLE = "from zhcached.workers.parallel import namespace; namespace.enter()"


@pytest.fixture(scope="session")
def own_network() -> None:
    """Skips where the kernel gives nobody a network of his own."""
    tried = subprocess.run([sys.executable, "-c", POSSIBLE], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("this kernel lets nobody make a network of his own here")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """Returns a function that gives a family's folder, where workers may read."""
    base = tmp_path_factory.mktemp("snapshots")

    def of(family: str) -> Path:
        target = base / family
        if not target.exists():
            shutil.copytree(families.folder(family), target)
        return target

    return of


@pytest.fixture
def start(own_network, shared_workers, snapshot):
    """Returns a function that starts a worker and waits until it has loaded, or has failed."""
    fronts: list[Front] = []
    launcher = Remote(shared_workers.path)

    def begin(family: str = "sd15", devices: tuple[str, ...] = ("cpu", "cpu")) -> Front:
        kind = "parallel" if devices else "resident"
        fronts.append(Front(launcher.launch(kind, "a test"), snapshot(family), list(devices)))
        return fronts[-1]

    yield begin
    for front in fronts:
        front.close()
