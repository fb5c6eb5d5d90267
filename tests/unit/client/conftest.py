"""A daemon simulator on a socket of its own, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.daemon import DaemonSimulator
from zhcache.client import Client


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A folder with a configuration and one weight file."""
    folder = tmp_path / "snapshot"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"w" * 1000)
    return folder


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonSimulator]:
    """A running simulator that the environment points at."""
    with DaemonSimulator(tmp_path / "run" / "api.sock") as simulator:
        monkeypatch.setenv("ZHCACHE_SOCKET", str(simulator.socket))
        yield simulator


@pytest.fixture
def client(daemon: DaemonSimulator) -> Iterator[Client]:
    """A client of ``daemon``."""
    with Client() as made:
        yield made
