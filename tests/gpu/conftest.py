"""Tests that need a GPU. They skip with the reason where there is none.

``ZHCACHE_GPU_TESTS_ON=cpu`` runs those that mean something there, over arenas on the CPU: to see
that they still run at all before they are taken to a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.daemon import Daemon
from harness.painter import Painter

REPO = "test/tiny"
ON = "ZHCACHE_GPU_TESTS_ON"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("gpu")


@pytest.fixture(scope="session")
def cuda() -> str:
    """The first GPU's name for torch."""
    from benchmarks.gpu.common import lacking

    if reason := lacking():
        pytest.skip(reason)
    return "cuda"


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device under test."""
    return os.environ.get(ON) or request.getfixturevalue("cuda")


@pytest.fixture
def painter() -> Iterator[Callable[..., Painter]]:
    """Returns a function that starts users; all end after the test."""
    started: list[Painter] = []

    def start(way: str, device: str, what: str | Path, daemon: Daemon) -> Painter:
        started.append(Painter(way, device, str(what), daemon.environ))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def served(make_daemon, pipeline_dir: Path) -> Daemon:
    """A daemon that has the tiny pipeline and keeps arenas on every device."""
    daemon = make_daemon('[residency]\nhost = "arenas"\n')
    daemon.start()
    daemon.cli("import", str(pipeline_dir), "--repo", REPO)
    return daemon
