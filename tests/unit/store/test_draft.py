"""Drafts: blobs that are made here, and all that may go wrong while they are."""

import os
import stat
import threading

import pytest

from harness.storekit import REPO, draft, open_store, promise_of, publish, put, sha256
from zhcache.errors import NoSpace, ZhcacheError
from zhcached.store import failpoints, files
from zhcached.store.layout import SCRAP

CONTENT = b"weights" * 50_000


def leftovers(store):
    return os.listdir(store.layout.ingests)


def test_committed_draft_is_a_blob_under_the_hash_of_its_bytes(store):
    came = draft(store, CONTENT)
    assert (came.sha256, came.size, came.git_sha1) == (sha256(CONTENT), len(CONTENT), None)
    path = store.blobs.path(came.sha256)
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    assert leftovers(store) == []
    assert store.space.reserved == 0


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_put_makes_a_blob_of_small_content(store, content):
    assert store.intake.put(content, "job").sha256 == sha256(content)
    assert store.presence.find(promise_of(content)) is not None
    assert leftovers(store) == []


def test_chunk_may_be_of_any_type_and_its_buffer_used_again(store):
    buffer = bytearray(b"\1\2\3\4")
    with store.intake.draft(8, "job") as file:
        file.write(memoryview(buffer).cast("H"))
        buffer[:] = b"\5\6\7\10"
        file.write(bytes(buffer))
        assert file.written == 8
        assert file.commit().sha256 == sha256(bytes(range(1, 9)))


def test_draft_takes_not_a_byte_more_than_its_size(store):
    with store.intake.draft(5, "job") as file:
        file.write(b"abc")
        with pytest.raises(ValueError, match="6 bytes"):
            file.write(b"def")
        file.write(b"de")
        assert file.commit().sha256 == sha256(b"abcde")


def test_draft_with_bytes_missing_is_not_committed(store):
    with store.intake.draft(5, "job") as file:
        file.write(b"abc")
        with pytest.raises(ValueError, match="3 bytes of a draft of 5"):
            file.commit()
    assert list(store.blobs.list()) == []


def test_closed_draft_leaves_nothing(store):
    file = store.intake.draft(len(CONTENT), "job")
    file.write(CONTENT[:100])
    assert leftovers(store) != []
    file.close()
    file.close()
    assert leftovers(store) == []
    assert store.space.reserved == 0
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        file.commit()


def test_close_after_commit_does_nothing(store):
    file = store.intake.draft(3, "job")
    file.write(b"abc")
    came = file.commit()
    file.close()
    assert store.blobs.has(came.sha256, 3)


def test_blob_is_held_for_the_job_until_it_lets_go(root, clock):
    store = open_store(root, clock, grace=0.0)
    draft(store, CONTENT, job="convert")
    assert store.gc().bytes_freed == 0
    store.leases.release_holds("convert")
    assert store.gc().bytes_freed == len(CONTENT)
    store.close()


def test_blob_is_held_before_its_name_exists(store, monkeypatch):
    held = []

    def admit(fd, path, name):
        held.append((name in store.leases.held(), store.blobs.has(name)))

    monkeypatch.setattr(store.blobs, "admit", admit)
    with pytest.raises(ZhcacheError):
        draft(store, CONTENT)  # without its name it cannot be recorded
    assert held == [(True, False)]


def test_same_bytes_again_keep_the_blob_that_is_mapped(store):
    name = put(store, CONTENT).sha256
    inode = store.blobs.path(name).stat().st_ino
    assert draft(store, CONTENT).sha256 == name
    assert store.blobs.path(name).stat().st_ino == inode
    assert leftovers(store) == []


def test_same_bytes_again_do_not_vouch_for_a_blob_in_doubt(store):
    """The blob that has the name is damaged in place: what was made here takes its place."""
    publish(store, {"w": CONTENT})
    path = store.blobs.path(sha256(CONTENT))
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.write(b"DAMAGE")
    path.chmod(0o440)
    draft(store, CONTENT)
    assert path.read_bytes() == CONTENT
    assert store.checks.verify().damaged == []
    assert store.resolve(REPO, None)


def test_draft_without_room_is_refused_before_a_byte_is_written(root, clock):
    store = open_store(root, clock, quota=1000)
    with pytest.raises(NoSpace):
        store.intake.draft(1001, "job")
    assert (leftovers(store), store.space.reserved) == ([], 0)
    store.intake.draft(1000, "job").close()
    store.close()


def test_room_is_set_aside_until_the_bytes_are_there(root, clock):
    store = open_store(root, clock, quota=1_000_000)
    store.intake._fallocate = False
    first = store.intake.draft(600_000, "job")
    with pytest.raises(NoSpace):
        store.intake.draft(600_000, "job")
    first.write(bytes(200_000))
    assert store.space.reserved == 400_000
    first.close()
    assert store.space.reserved == 0
    store.intake.draft(600_000, "job").close()
    store.close()


def test_size_is_not_negative(store):
    with pytest.raises(ValueError, match="negative"):
        store.intake.draft(-1, "job")
    assert store.space.reserved == 0


@pytest.mark.parametrize("point", ["draft.write", "commit.fsync", "commit.after_rename"])
@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_failing_disk_costs_the_draft_and_the_next_one_comes_through(
    store, monkeypatch, point, action
):
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as broken:
        broken.setitem(failpoints.ARMED, point, action)
        with pytest.raises(NoSpace if action == "enospc" else ZhcacheError):
            draft(store, CONTENT)
    assert leftovers(store) == []
    assert store.space.reserved == 0
    assert len(os.listdir("/proc/self/fd")) == before
    assert draft(store, CONTENT).sha256 == sha256(CONTENT)


def test_write_that_failed_may_be_tried_again(store, monkeypatch):
    with store.intake.draft(4, "job") as file:
        with monkeypatch.context() as broken:
            broken.setitem(failpoints.ARMED, "draft.write", "enospc")
            with pytest.raises(NoSpace):
                file.write(b"ab")
        file.write(b"ab")
        file.write(b"cd")
        assert file.commit().sha256 == sha256(b"abcd")


def test_commit_that_cannot_be_recorded_leaves_no_draft(store, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setitem(failpoints.ARMED, "commit.after_record", "enospc")
        with pytest.raises(OSError, match="space"):
            draft(store, CONTENT)
    assert (leftovers(store), store.space.reserved) == ([], 0)
    assert draft(store, CONTENT).sha256 == sha256(CONTENT)


def test_draft_of_a_dead_daemon_is_deleted_at_the_next_start(root, clock):
    store = open_store(root, clock)
    file = store.intake.draft(len(CONTENT), "job")
    file.write(CONTENT)
    (name,) = leftovers(store)
    assert name.startswith(SCRAP)
    store.close()
    store = open_store(root, clock)
    assert leftovers(store) == []
    assert list(store.blobs.list()) == []
    store.close()


def test_gc_leaves_a_running_draft_alone(root, clock):
    store = open_store(root, clock, keep_partial=0.0)
    with store.intake.draft(len(CONTENT), "job") as file:
        file.write(CONTENT)
        clock.pass_s(10**6)
        store.gc()
        assert file.commit().sha256 == sha256(CONTENT)
    store.close()


def test_writeback_begins_while_bytes_come(store, monkeypatch):
    """So that the sync at the end has little left to wait for."""
    began = []
    monkeypatch.setattr(files, "start_writeback", lambda fd: began.append(fd))
    draft(store, bytes(33 << 20), step=1 << 20)
    assert len(began) == 4


def test_close_waits_for_a_write_under_way(store, monkeypatch):
    """A descriptor that is closed under a write would be another file's by then."""
    writing, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    write = files.write_all_at

    def slow(fd, content, offset):
        writing.set()
        assert go_on.wait(20)
        write(fd, content, offset)

    monkeypatch.setattr(files, "write_all_at", slow)
    file = store.intake.draft(4, "job")
    threads = [threading.Thread(target=file.write, args=(b"abcd",))]
    threads[0].start()
    assert writing.wait(20)
    threads.append(threading.Thread(target=lambda: (file.close(), closed.set())))
    threads[1].start()
    assert not closed.wait(0.05)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert closed.is_set()
    assert leftovers(store) == []
