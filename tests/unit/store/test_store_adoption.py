"""Files of others as they are taken in: made up, growing, written to meanwhile, given up."""

import os
import signal
import stat

import pytest

from harness.storekit import open_store, promise_of, sha256
from zhcache.errors import Cancelled, NoSpace, UsageError
from zhcached.errors import DigestMismatch
from zhcached.store.digest import READ_STEP

LONG = b"0123456789abcdef" * (3 * READ_STEP // 16)


@pytest.fixture
def source(root):
    """A file beside the store, on the same file system, so that a link can be had."""
    path = root.parent / "weights.bin"
    path.write_bytes(LONG)
    return path


def adopt(store, path, *, promise=None, link_ok=False, progress=None):
    fd = os.open(path, os.O_RDONLY)
    try:
        return store.intake.adopt(
            fd, promise, link_ok=link_ok, owner_job="import", progress=progress
        )
    finally:
        os.close(fd)


def left_nothing(store):
    return (
        list(store.blobs.list()) == []
        and os.listdir(store.layout.ingests) == []
        and store.space.reserved == 0
    )


@pytest.mark.parametrize("path", ["/proc/self/status", "/proc/cpuinfo", "/sys/kernel/mm"])
def test_adopt_refuses_what_the_kernel_makes_up(store, path):
    with pytest.raises(UsageError, match=r"procfs|regular"):
        adopt(store, path)
    assert left_nothing(store)


@pytest.mark.parametrize("change", [b"x" * (5 * READ_STEP), None], ids=["grows", "shrinks"])
def test_adopt_of_a_file_that_changes_reads_no_byte_too_many_and_says_so(store, source, change):
    seen = []

    def meddle(count):
        seen.append(count)
        if len(seen) == 1 and change:
            with source.open("ab") as file:
                file.write(change)
        elif len(seen) == 1:
            os.truncate(source, READ_STEP + 5)

    with pytest.raises(UsageError, match=f"{source} changed while it was read"):
        adopt(store, source, progress=meddle)
    assert sum(seen) <= len(LONG)
    assert left_nothing(store)


def test_adopt_never_takes_more_than_the_room_that_was_set_aside(root, source, monkeypatch):
    store = open_store(root, quota=len(LONG))
    real = store.space.reserve

    def reserve_then_grow(size):
        with source.open("ab") as file:
            file.write(b"x")
        return real(size)

    monkeypatch.setattr(store.space, "reserve", reserve_then_grow)
    with pytest.raises(UsageError, match="changed"):
        adopt(store, source)
    monkeypatch.undo()
    with pytest.raises(NoSpace):
        adopt(store, source)
    assert left_nothing(store)
    store.close()


@pytest.mark.parametrize("link_ok", [False, True])
def test_adopt_tells_each_step_and_is_cancelled_inside_one_file(store, source, link_ok):
    seen = []

    def cancel_at_the_second(count):
        seen.append(count)
        if len(seen) == 2:
            raise Cancelled("the import was cancelled")

    with pytest.raises(Cancelled):
        adopt(store, source, link_ok=link_ok, progress=cancel_at_the_second)
    assert left_nothing(store)
    assert source.stat().st_nlink == 1
    steps = []
    adopt(store, source, link_ok=link_ok, progress=steps.append)
    assert sum(steps) == len(LONG)


def test_adopt_keeps_writers_out_until_a_linked_file_is_a_blob(store, source, monkeypatch):
    """A writer in between gets no SIGIO sent to us, and not into the blob."""
    signals = []
    before = signal.signal(signal.SIGIO, lambda number, _: signals.append(number))
    refused = []

    def write_behind(_count):
        if not refused:
            try:
                fd = os.open(source, os.O_WRONLY | os.O_NONBLOCK)
            except BlockingIOError as error:
                refused.append(error)
            else:
                os.pwrite(fd, b"XXXX", len(LONG) - 4)
                os.close(fd)

    try:
        came = adopt(store, source, link_ok=True, progress=write_behind)
    finally:
        signal.signal(signal.SIGIO, before)
    assert refused
    assert signals == []
    blob = store.blobs.path(came.sha256)
    assert sha256(blob.read_bytes()) == came.sha256
    assert blob.stat().st_ino != source.stat().st_ino
    assert stat.S_IMODE(source.stat().st_mode) & 0o200


def test_adopt_that_links_ends_its_lease_with_the_adoption(store, source):
    came = adopt(store, source, link_ok=True)
    blob = store.blobs.path(came.sha256)
    assert blob.stat().st_ino == source.stat().st_ino
    os.chmod(source, 0o640)
    os.close(os.open(source, os.O_WRONLY | os.O_NONBLOCK))


def test_adopt_that_is_refused_leaves_a_linked_file_as_it_was(store, source):
    source.chmod(0o644)
    with pytest.raises(DigestMismatch):
        adopt(store, source, link_ok=True, promise=promise_of(b"v" * len(LONG)))
    assert left_nothing(store)
    found = source.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (0o644, 1)
