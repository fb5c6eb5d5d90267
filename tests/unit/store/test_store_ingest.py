import os
import random
import threading

import pytest

from harness.storekit import Clock, open_store, promise_of, put, sha256
from zhcache.errors import Busy, NoSpace, ZhcacheError
from zhcached.errors import DigestMismatch
from zhcached.store import failpoints
from zhcached.store.digest import Promise
from zhcached.store.ranges import Ranges

CONTENT = random.Random(1).randbytes(300_000)


@pytest.fixture
def ingest(store):
    opened = store.intake.begin(promise_of(CONTENT), "job")
    yield opened
    opened.close()


def journal_of(store, promise):
    return store.layout.ingest(promise.key) / "journal"


def test_ingest_becomes_a_blob_named_by_its_content(store):
    came = put(store, CONTENT)
    path = store.blobs.path(sha256(CONTENT))
    assert came.sha256 == sha256(CONTENT)
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o440
    assert os.listdir(store.layout.ingests) == []


def test_ingest_checks_a_git_promise_and_names_the_blob_by_sha256(store):
    came = put(store, CONTENT, git=True)
    assert came.git_sha1 == promise_of(CONTENT, git=True).git_sha1
    assert store.blobs.has(sha256(CONTENT), len(CONTENT))


def test_ingest_of_nothing_commits(store):
    assert put(store, b"").size == 0


def test_ingest_refuses_a_byte_past_the_declared_size(store, ingest):
    for offset, chunk in ((len(CONTENT), b"x"), (-1, b"x"), (len(CONTENT) - 1, b"xy")):
        with pytest.raises(ValueError, match="outside"):
            ingest.write(offset, chunk, "hub")
    assert ingest.missing() == Ranges([(0, len(CONTENT))])


def test_ingest_takes_ranges_in_any_order_from_several_threads(store):
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    offsets = list(range(0, len(CONTENT), 7_001))
    random.Random(2).shuffle(offsets)
    shares = [offsets[i::4] for i in range(4)]

    def send(share, name):
        for offset in share:
            ingest.write(offset, CONTENT[offset : offset + 9_000], name)  # overlapping the next

    threads = [
        threading.Thread(target=send, args=(share, f"hub{i}")) for i, share in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ranges.total for ranges in ingest.contributions().values()) == len(CONTENT)
    assert ingest.commit().sha256 == sha256(CONTENT)


def test_ingest_keeps_the_first_bytes_of_an_offset_so_that_file_and_digest_agree(store, ingest):
    ingest.write(0, CONTENT, "hub")
    ingest.write(100, b"\0" * 1000, "liar")
    assert "liar" not in ingest.contributions()
    assert ingest.commit().sha256 == sha256(CONTENT)
    assert store.blobs.path(sha256(CONTENT)).read_bytes() == CONTENT


def test_ingest_hashes_along_with_the_writer_and_catches_up_over_what_came_ahead(ingest):
    half = len(CONTENT) // 2
    ingest.write(half, CONTENT[half:], "hub")
    assert ingest._frontier.at == 0
    ingest.write(0, CONTENT[:half], "hub")
    assert ingest._frontier.at == len(CONTENT)


def test_commit_rejects_wrong_digest_and_keeps_the_ingest(store, ingest):
    ingest.write(0, b"\0" + CONTENT[1:], "hub")
    with pytest.raises(DigestMismatch) as raised:
        ingest.commit()
    assert raised.value.promised == f"sha256:{sha256(CONTENT)}"
    assert list(store.blobs.list()) == []
    ingest.discard(Ranges([(0, 1)]))
    ingest.write(0, CONTENT[:1], "hub")
    assert ingest.commit().sha256 == sha256(CONTENT)


def test_commit_rejects_a_wrong_git_sha1_beside_a_right_sha256(store):
    both = Promise(len(CONTENT), sha256(CONTENT), "0" * 40)
    ingest = store.intake.begin(both, "job")
    ingest.write(0, CONTENT, "hub")
    with pytest.raises(DigestMismatch, match="git-sha1"):
        ingest.commit()
    ingest.close()


def test_commit_refuses_while_bytes_are_missing(ingest):
    ingest.write(0, CONTENT[:-1], "hub")
    with pytest.raises(ValueError, match="missing"):
        ingest.commit()


def test_commit_keeps_a_blob_that_is_here_already(store):
    git = store.intake.begin(promise_of(CONTENT, git=True), "other")
    git.write(0, CONTENT, "hub")
    put(store, CONTENT)
    before = store.blobs.identity(sha256(CONTENT))
    git.commit()
    assert store.blobs.identity(sha256(CONTENT)).inode == before.inode


def test_begin_answers_busy_while_another_job_has_the_ingest(store, ingest):
    with pytest.raises(Busy, match="job"):
        store.intake.begin(promise_of(CONTENT), "second")


def reopened(store, promise):
    return store.intake.begin(promise, "job")


def test_resume_finds_only_what_was_synced_and_who_sent_it(store):
    promise = promise_of(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT[:1000], "a")
    ingest.write(5000, CONTENT[5000:7000], "b")
    ingest.sync()
    ingest.write(9000, CONTENT[9000:9500], "a")
    ingest.close()
    again = reopened(store, promise)
    assert again.received.pairs() == [(0, 1000), (5000, 7000)]
    assert again.contributions() == {"a": Ranges([(0, 1000)]), "b": Ranges([(5000, 7000)])}
    for start, end in again.missing():
        again.write(start, CONTENT[start:end], "c")
    assert again.commit().sha256 == sha256(CONTENT)


def test_resume_remembers_a_discard(store):
    promise = promise_of(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT, "a")
    ingest.sync()
    ingest.discard(Ranges([(10, 20)]))
    ingest.close()
    again = reopened(store, promise)
    assert again.missing().pairs() == [(10, 20)]
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_resume_ignores_a_torn_journal_tail_and_appends_after_it(store, cut):
    promise = promise_of(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT[:1000], "a")
    ingest.sync()
    ingest.write(2000, CONTENT[2000:3000], "a")
    ingest.sync()
    ingest.close()
    journal = journal_of(store, promise)
    journal.write_bytes(journal.read_bytes()[:-cut])
    second = reopened(store, promise)
    assert second.received.pairs() == [(0, 1000)]
    second.write(4000, CONTENT[4000:5000], "a")
    second.sync()
    second.close()
    third = reopened(store, promise)
    assert third.received.pairs() == [(0, 1000), (4000, 5000)]
    third.close()


def test_resume_trusts_nothing_after_a_line_with_a_bad_checksum(store):
    promise = promise_of(CONTENT)
    ingest = store.intake.begin(promise, "job")
    for at in (0, 1000, 2000):
        ingest.write(at, CONTENT[at : at + 1000], "a")
        ingest.sync()
    ingest.close()
    journal = journal_of(store, promise)
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"1000", b"1001")
    journal.write_bytes(b"".join(lines))
    again = reopened(store, promise)
    assert again.received.pairs() == [(0, 1000)]
    again.close()


def test_resume_ignores_a_journaled_range_beyond_the_end_of_the_file(store):
    promise = promise_of(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT, "a")
    ingest.sync()
    ingest.close()
    os.truncate(store.layout.ingest(promise.key) / "data", 5000)
    again = reopened(store, promise)
    assert again.received.pairs() == []
    again.close()


def test_resume_never_opens_a_blob_for_writing_through_a_second_name(store):
    put(store, CONTENT)
    blob = store.blobs.path(sha256(CONTENT))
    promise = Promise(len(CONTENT), "f" * 64)
    folder = store.layout.ingest(promise.key)
    folder.mkdir()
    os.link(blob, folder / "data")
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, b"\0" * 100, "hub")
    ingest.close()
    assert blob.read_bytes() == CONTENT


def test_set_aside_keeps_the_bad_bytes_beside_a_fresh_start(store, ingest):
    bad = b"\0" * len(CONTENT)
    ingest.write(0, bad, "liar")
    aside = ingest.set_aside()
    assert aside.read_bytes() == bad
    assert ingest.contributions() == {}
    ingest.write(0, CONTENT, "hub")
    assert ingest.commit().sha256 == sha256(CONTENT)
    assert not aside.exists()


def test_maybe_sync_waits_for_a_second_or_for_enough_bytes(root):
    clock = Clock()
    store = open_store(root, clock)
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    ingest.write(0, CONTENT[:1000], "a")
    ingest.maybe_sync()
    assert not ingest.durable
    clock.pass_s(1.0)
    ingest.maybe_sync()
    assert ingest.durable.pairs() == [(0, 1000)]
    ingest.close()
    store.close()


@pytest.mark.parametrize("point", ["journal.data_sync", "commit.fsync"])
def test_failed_fsync_gives_the_ingest_up_and_is_never_taken_for_success(store, monkeypatch, point):
    promise = promise_of(CONTENT)
    ingest = store.intake.begin(promise, "job")
    ingest.write(0, CONTENT, "hub")
    if point == "commit.fsync":
        ingest.sync()
    monkeypatch.setitem(failpoints.ARMED, point, "eio")
    with pytest.raises(ZhcacheError, match="the disk"):
        ingest.commit() if point == "commit.fsync" else ingest.sync()
    monkeypatch.delitem(failpoints.ARMED, point)
    with pytest.raises(ZhcacheError, match="the disk"):
        ingest.commit()
    again = store.intake.begin(promise, "job")
    assert again.received.pairs() == []
    again.close()
    assert store.presence.find(promise) is None


def test_write_that_finds_the_disk_full_says_so_and_leaves_the_range_missing(
    store, ingest, monkeypatch
):
    monkeypatch.setitem(failpoints.ARMED, "ingest.write", "enospc")
    with pytest.raises(NoSpace) as raised:
        ingest.write(0, CONTENT, "hub")
    assert "zhcache gc" in raised.value.hint
    monkeypatch.delitem(failpoints.ARMED, "ingest.write")
    assert ingest.missing() == Ranges([(0, len(CONTENT))])
    ingest.write(0, CONTENT, "hub")
    assert ingest.commit().sha256 == sha256(CONTENT)


def test_discard_waits_for_writers_and_their_stale_bytes_never_reach_the_digest(store):
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    stop = threading.Event()

    def lie():
        while not stop.is_set():
            ingest.write(0, b"\1" * 4096, "liar")

    liars = [threading.Thread(target=lie) for _ in range(2)]
    for thread in liars:
        thread.start()
    for _ in range(100):
        ingest.discard()
    stop.set()
    for thread in liars:
        thread.join()
    ingest.discard()
    ingest.write(0, CONTENT, "hub")
    assert ingest.commit().sha256 == sha256(CONTENT)


def test_failpoints_refuse_an_unknown_point():
    with pytest.raises(ValueError, match="not a known"):
        failpoints.parse("commit.after_lunch=kill")
    assert failpoints.parse("commit.after_rename=kill,journal.data_sync=eio")


def test_begin_that_finds_no_room_leaves_nothing_open_and_nothing_behind(root):
    store = open_store(root, quota=1000)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoSpace):
        store.intake.begin(promise_of(CONTENT), "job")
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(store.layout.ingests) == []
    store.close()
