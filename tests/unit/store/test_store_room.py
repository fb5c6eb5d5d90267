import pytest

from harness.storekit import open_store, promise_of
from zhcache.errors import NoSpace

CONTENT = b"x" * 300_000


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store", quota=400_000)
    yield opened
    opened.close()


def test_room_for_a_resumed_download_is_not_asked_for_twice(store):
    promise = promise_of(CONTENT)
    assert store.intake.room_needed(promise) == len(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT[:200_000], "hub")
    ingest.sync()
    ingest.close()
    needed = store.intake.room_needed(promise)
    assert needed <= 100_000 + 4096
    store.space.reserve(needed).release()
    with pytest.raises(NoSpace):
        store.space.reserve(len(CONTENT))
