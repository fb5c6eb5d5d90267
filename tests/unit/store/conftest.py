import contextlib

import pytest
from harness.storekit import Clock, open_store


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root, clock):
    opened = open_store(root, clock)
    yield opened
    with contextlib.suppress(Exception):
        opened.close()
