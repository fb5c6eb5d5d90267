"""Both ways to run a script, and the servers they share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.sidebyside import Pair, clean_environ


@pytest.fixture(scope="session")
def runtime() -> Iterator[Path]:
    """Where servers listen; they end when they find it gone."""
    folder = Path(tempfile.mkdtemp(prefix="zhx-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pair(tmp_path: Path, runtime: Path) -> Pair:
    """A folder for scripts, and the servers of this run."""
    return Pair(tmp_path, clean_environ(runtime))
