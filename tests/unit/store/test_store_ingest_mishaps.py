"""An ingest whose surroundings fail: what it leaves open, and what its other callers are told."""

import errno
import os
import resource
import threading

import pytest

from harness.storekit import open_store, promise_of, put, sha256
from zhcache.errors import NoSpace
from zhcached.store import failpoints

CONTENT = b"weights" * 50_000


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_commit_that_cannot_be_recorded_frees_key_room_and_descriptors(store, monkeypatch):
    store.intake._fallocate = False
    before = descriptors()
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    ingest.write(0, CONTENT, "hub")
    with monkeypatch.context() as broken:
        broken.setitem(failpoints.ARMED, "commit.after_record", "enospc")
        with pytest.raises(OSError, match="space"):
            ingest.commit()
    ingest.close()
    assert (descriptors(), store.space.reserved) == (before, 0)
    assert put(store, CONTENT).sha256 == sha256(CONTENT)


def test_begin_that_cannot_make_its_folder_leaves_the_key_free(store):
    folder = store.layout.ingest(promise_of(CONTENT).key)
    folder.write_bytes(b"in the way")
    before = descriptors()
    for _ in range(2):
        with pytest.raises(NotADirectoryError):
            store.intake.begin(promise_of(CONTENT), "job")
    assert descriptors() == before
    folder.unlink()
    assert put(store, CONTENT).sha256 == sha256(CONTENT)


@pytest.mark.parametrize("spare", [0, 1])
def test_begin_without_a_descriptor_left_keeps_what_an_earlier_run_brought(store, spare):
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    ingest.write(0, CONTENT[:1000], "hub")
    ingest.sync()
    ingest.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest + 8)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, limits[1]))
        for _ in range(spare):
            os.close(fillers.pop())
        with pytest.raises(OSError) as raised:
            store.intake.begin(promise_of(CONTENT), "job")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in fillers:
            os.close(fd)
    assert raised.value.errno == errno.EMFILE
    again = store.intake.begin(promise_of(CONTENT), "job")
    assert again.received.pairs() == [(0, 1000)]
    again.close()


def test_every_connection_is_told_why_the_ingest_was_lost(root, monkeypatch):
    store = open_store(root)
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    lost = threading.Barrier(6)
    told = []

    def connection(number):
        ingest.write(number * 1000, CONTENT[number * 1000 : number * 1000 + 1000], "hub")
        lost.wait(10)
        try:
            if number == 0:
                ingest.sync()
            else:
                while True:
                    ingest.write(50_000, b"x", "hub")
        except Exception as error:
            told.append(error)

    monkeypatch.setitem(failpoints.ARMED, "journal.data_sync", "enospc")
    threads = [threading.Thread(target=connection, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [type(error) for error in told] == [NoSpace] * 6
    with pytest.raises(NoSpace):
        ingest.commit()
    store.close()


def test_set_aside_that_fails_gives_its_room_back(store):
    store.intake._fallocate = False
    promise = promise_of(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT[:1000], "hub")
    (store.layout.ingest(promise.key) / "data").unlink()
    with pytest.raises(FileNotFoundError):
        ingest.set_aside()
    ingest.close()
    assert store.space.reserved == 0
