import pytest

from harness.fetchkit import Fetching
from harness.storekit import open_store
from zhcached.clock import SystemClock


@pytest.fixture
def fetching(tmp_path):
    store = open_store(tmp_path / "store", SystemClock())
    made = Fetching(store)
    yield made
    made.close()
    store.close()
