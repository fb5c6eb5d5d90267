"""Folders in memory, where that is to be had: what is tested here waits for no disk."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture(scope="module")
def module_path():
    made = Path(tempfile.mkdtemp(prefix="zhcache-watch-", dir=_MEMORY))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def tmp_path(module_path):
    """A folder of the test's own."""
    return Path(tempfile.mkdtemp(dir=module_path))


@pytest.fixture
def folder(tmp_path):
    """A folder to be watched."""
    made = tmp_path / "in"
    made.mkdir()
    return made
