"""Fixtures that more than one suite uses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demohub import Hub


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
