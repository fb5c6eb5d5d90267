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
    assert store.ingests.room_needed(promise) == len(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT[:200_000], "hub")
    ingest.sync()
    ingest.close()
    needed = store.ingests.room_needed(promise)
    assert needed <= 100_000 + 4096
    store.space.reserve(needed).release()
    with pytest.raises(NoSpace):
        store.space.reserve(len(CONTENT))


def test_room_is_not_kept_for_a_download_that_nobody_goes_on_with(store):
    promise = promise_of(CONTENT)
    for kept in (10_000, 20_000):
        ingest = store.intake.begin(promise, "job")
        ingest.write(kept - 10_000, CONTENT[:10_000], "hub")
        ingest.sync()
        ingest.close()
        data = store.layout.ingest(promise.key) / "data"
        assert data.stat().st_size == kept
        assert store.ingests.room_needed(promise) >= len(CONTENT) - kept - 4096
        store.space.reserve(370_000).release()
    ingest = store.intake.begin(promise, "job")
    assert list(ingest.missing()) == [(20_000, len(CONTENT))]
    ingest.write(20_000, CONTENT[20_000:], "hub")
    assert ingest.commit().sha256 == promise.sha256


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_lies_in_the_place_of_partial_bytes_is_replaced_and_not_followed(
    store, tmp_path, kind
):
    promise = promise_of(CONTENT)
    folder = store.layout.ingest(promise.key)
    folder.mkdir()
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    if kind == "link":
        (folder / "data").symlink_to(target)
    else:
        (folder / "data").mkdir()
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT, "hub")
    assert ingest.commit().size == len(CONTENT)
    assert target.read_bytes() == b"mine"
