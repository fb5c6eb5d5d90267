"""Fixtures that more than one suite uses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import Daemon


@pytest.fixture(scope="session")
def pipeline_dir() -> Path:
    """A tiny real Stable Diffusion pipeline; built once per recipe and kept between runs."""
    from demohub import pipeline

    return pipeline.build(pipeline.shared_folder(Path(tempfile.gettempdir())))


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub that listens on loopback and serves nothing yet."""
    with Hub() as started:
        yield started


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Returns a function that makes daemons with a configuration; all end after the test."""
    made: list[Daemon] = []

    def make(config: str, *, name: str = "d", **environ: str) -> Daemon:
        daemon = Daemon(tmp_path / name, config, environ)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.stop()
