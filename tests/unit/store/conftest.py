import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness.storekit import Clock, open_store


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def root(tmp_path):
    """A place for a store, in memory where that can be had: fsync costs nothing there."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path / "store"
        return
    folder = Path(tempfile.mkdtemp(prefix="zhcache-test-", dir="/dev/shm"))
    yield folder / "store"
    shutil.rmtree(folder)


@pytest.fixture
def store(root, clock):
    opened = open_store(root, clock)
    yield opened
    with contextlib.suppress(Exception):
        opened.close()
