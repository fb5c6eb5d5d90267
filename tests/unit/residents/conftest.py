import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness.residentkit import House
from harness.storekit import open_store
from zhcached.clock import SystemClock


@pytest.fixture
def root(tmp_path):
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path / "store"
        return
    folder = Path(tempfile.mkdtemp(prefix="zhcache-test-", dir="/dev/shm"))
    yield folder / "store"
    shutil.rmtree(folder)


@pytest.fixture
def store(root):
    opened = open_store(root, SystemClock())
    yield opened
    with contextlib.suppress(Exception):
        opened.close()


@pytest.fixture
def make(store):
    """Returns a function that makes a house of residents; all end after the test."""
    made: list[House] = []

    def house(clock=None, **settings) -> House:
        made.append(House(store, clock or SystemClock(), **settings))
        return made[-1]

    yield house
    for one in made:
        one.end()
