"""Vision models held by a simulated daemon."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import visionkit
from simulators.daemon import DaemonSimulator


@pytest.fixture(scope="session")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function: the folder of a tiny model of a kind."""
    base, built = tmp_path_factory.mktemp("vision"), dict[str, Path]()

    def folder(kind: str) -> Path:
        if kind not in built:
            built[kind] = visionkit.build(kind, base / kind)
        return built[kind]

    return folder


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonSimulator]:
    """A running simulator that the environment points at."""
    with DaemonSimulator(tmp_path / "run" / "api.sock") as simulator:
        monkeypatch.setenv("ZHCACHE_SOCKET", str(simulator.socket))
        yield simulator
