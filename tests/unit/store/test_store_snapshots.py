import os
import stat
from pathlib import Path

import pytest

from harness.storekit import (
    COMMIT,
    REPO,
    TINY,
    manifest_of,
    open_store,
    promise_of,
    publish,
    publish_tiny,
    sha256,
)
from zhcache.errors import Busy, NotFound, NotPermitted, UsageError
from zhcache.protocol.names import parse_repo
from zhcached.errors import DigestMismatch
from zhcached.store.leases import Leases
from zhcached.store.snapshots import merge

OTHER = "c0ffee" + "1" * 34


def test_resolve_understands_branch_commit_prefix_and_nothing(store):
    publish_tiny(store, ref="v1.0")
    assert store.resolve(REPO, None).commit == COMMIT
    for revision in ("v1.0", COMMIT, COMMIT[:7]):
        assert store.resolve(REPO, revision).commit == COMMIT
    for revision in ("main", COMMIT[:6], "d" * 40):
        with pytest.raises(NotFound) as raised:
            store.resolve(REPO, revision)
        assert "zhcache prefetch" in raised.value.hint


def test_resolve_prefers_main_then_master_then_the_newest(store):
    publish(store, {"a": b"1"}, ref=None, commit="1" * 40, created=1.0)
    publish(store, {"a": b"2"}, ref=None, commit="2" * 40, created=2.0)
    assert store.resolve(REPO, None).commit == "2" * 40
    publish(store, {"a": b"1"}, ref="master", commit="1" * 40)
    assert store.resolve(REPO, None).commit == "1" * 40
    publish(store, {"a": b"2"}, ref="main", commit="2" * 40)
    assert store.resolve(REPO, None).commit == "2" * 40


def test_resolve_refuses_a_prefix_of_several_commits(store):
    publish(store, {"a": b"1"}, ref=None, commit="1" * 39 + "2")
    publish(store, {"a": b"2"}, ref=None, commit="1" * 39 + "3")
    with pytest.raises(UsageError, match="several"):
        store.resolve(REPO, "1111111")


def test_show_and_lock_name_files_with_their_blobs(store):
    publish_tiny(store, trust="quorum")
    detail = store.detail(REPO, "main")
    assert {f.path: Path(f.blob).read_bytes() for f in detail.files} == TINY
    assert (detail.trust, detail.revisions, detail.files_count) == ("quorum", ["main"], len(TINY))
    [locked] = store.lock_file([f"{REPO}"]).repos
    assert (locked.revision, locked.commit) == ("main", COMMIT)
    assert {f.path: f.sha256 for f in locked.files} == {p: sha256(c) for p, c in TINY.items()}


def test_space_report_tells_own_from_shared(store):
    publish(store, {"a": b"a" * 1000, "s": b"s" * 500})
    publish(store, {"b": b"b" * 2000, "s": b"s" * 500}, repo=parse_repo("lab/other"))
    report = store.space_report()
    assert [(r.repo, r.bytes, r.bytes_own) for r in report.repos] == [
        ("lab/other", 2500, 2000),
        ("lab/tiny", 1500, 1000),
    ]
    assert report.bytes_blobs == 3500
    store.remove(REPO, None)
    assert store.space_report().bytes_released == 1000
    publish(store, {"a": b"a" * 1000})
    assert store.space_report().bytes_released == 0


def test_pinned_repository_is_not_removed_until_unpinned_even_after_a_restart(root):
    store = open_store(root)
    publish_tiny(store)
    store.pins.pin(REPO, 7)
    store.close()
    store = open_store(root)
    assert store.snapshots()[0].pinned
    with pytest.raises(UsageError) as raised:
        store.remove(REPO, None)
    assert f"zhcache unpin {REPO}" in raised.value.hint
    store.pins.unpin(REPO, 7, may_all=False)
    store.remove(REPO, None)
    with pytest.raises(NotFound):
        store.pins.pin(REPO, 7)
    store.close()


def test_pin_is_ended_by_who_made_it_or_an_administrator_even_when_others_pin_too(root):
    store = open_store(root)
    publish_tiny(store)
    store.pins.pin(REPO, 7)
    store.pins.pin(REPO, 8)
    store.close()
    for path in root.glob("index.sqlite*"):
        path.unlink()
    store = open_store(root)
    with pytest.raises(NotPermitted, match="another user") as raised:
        store.pins.unpin(REPO, 8, may_all=False)
    assert "uid 7" in raised.value.hint
    assert store.snapshots()[0].pinned
    store.pins.unpin(REPO, 8, may_all=True)
    assert not store.snapshots()[0].pinned
    store.pins.pin(REPO, 8)
    store.pins.unpin(REPO, 8, may_all=False)
    store.pins.unpin(REPO, 9, may_all=False)
    assert not store.layout.pinned(REPO).exists()
    store.close()


def test_remove_of_what_another_user_brought_is_refused_whole(store):
    other_commit = "1" * 40
    publish(store, {"a": b"1"}, uid=7)
    publish(store, {"a": b"2"}, uid=8, commit=other_commit, ref="dev")
    for revision in (None, "dev"):
        with pytest.raises(NotPermitted, match="another user") as raised:
            store.remove(REPO, revision, 7, may_all=False)
        assert "uid 8" in raised.value.hint
    assert {s.commit for s in store.snapshots()} == {COMMIT, other_commit}
    assert store.remove(REPO, COMMIT, 7, may_all=False).commits == [COMMIT]
    assert store.remove(REPO, None, 7, may_all=True).commits == [other_commit]


def test_leased_snapshot_is_not_removed_and_its_holder_is_named(root):
    store = open_store(root)
    publish_tiny(store)
    lease = store.leases.grant(REPO, COMMIT, uid=1234, pid=os.getpid())
    store.close()
    store = open_store(root)
    with pytest.raises(Busy, match=f"process {os.getpid()} of uid 1234"):
        store.remove(REPO, None)
    assert store.leases.owner(lease) == 1234
    assert store.leases.end(lease)
    assert not store.leases.end(lease)
    store.remove(REPO, None)
    with pytest.raises(NotFound):
        store.leases.grant(REPO, COMMIT, uid=1, pid=os.getpid())
    store.close()


def test_lease_of_a_process_that_is_gone_ends_with_a_restart_also_when_its_pid_came_back(root):
    store = open_store(root)
    publish_tiny(store)
    gone = [
        store.leases.grant(REPO, COMMIT, uid=1, pid=os.getpid(), pid_start=12345),
        store.leases.grant(REPO, COMMIT, uid=1, pid=2**22 + 1),
        store.leases.grant(REPO, COMMIT, uid=1, pid=0),
    ]
    alive = store.leases.grant(REPO, COMMIT, uid=1, pid=os.getpid())
    assert store.leases.prune_dead() == 0
    store.close()
    store = open_store(root)
    assert [store.leases.owner(lease) for lease in gone] == [None] * 3
    assert store.leases.owner(alive) == 1
    store.close()


def test_lease_of_a_process_that_cannot_be_seen_lasts_as_long_as_its_connection(store):
    publish_tiny(store)
    lease = store.leases.grant(REPO, COMMIT, uid=1, pid=0)
    with pytest.raises(Busy):
        store.remove(REPO, None)
    store.leases.end(lease)
    store.remove(REPO, None)


def test_lease_of_a_process_that_may_not_be_looked_at_counts_as_alive(store, clock):
    def hidden(pid):
        raise PermissionError(1, "Operation not permitted")

    publish_tiny(store)
    lease = Leases(store.catalog, clock, hidden).grant(REPO, COMMIT, uid=1, pid=4711)
    after_a_restart = Leases(store.catalog, clock, hidden)
    assert after_a_restart.prune_dead() == 0
    assert after_a_restart.owner(lease) == 1


def test_snapshot_being_removed_is_not_leased(store):
    publish_tiny(store)
    store._removal.mark(REPO, [COMMIT])
    with pytest.raises(Busy):
        store.leases.grant(REPO, COMMIT, uid=1, pid=os.getpid())
    assert store.snapshots() == []


def test_find_knows_git_stored_files_and_checks_both_digests(store):
    publish_tiny(store)
    content = TINY["unet/config.json"]
    git = promise_of(content, git=True)
    assert store.presence.find(git).sha256 == sha256(content)
    both = type(git)(len(content), sha256(content), git.git_sha1)
    assert store.presence.find(both) is not None
    assert store.presence.find(type(git)(len(content), sha256(content), "0" * 40)) is None
    assert store.presence.find(type(git)(len(content) + 1, sha256(content))) is None


def test_merge_keeps_what_both_vouch_for(store):
    publish(store, {"a": b"1"}, trust="pinned")
    old = store.resolve(REPO, None)
    publish(store, {"b": b"2"}, trust="first-use")
    both = store.resolve(REPO, None)
    assert [f.path for f in both.files] == ["a", "b"]
    assert both.trust == "first-use"
    assert merge(both, old).trust == "first-use"


def test_merge_leaves_the_snapshot_with_the_user_who_brought_it_first(store):
    publish(store, {"a": b"1"}, uid=7, created=1.0)
    publish(store, {"a": b"1", "b": b"2"}, uid=8, created=2.0)
    both = store.resolve(REPO, None)
    assert (both.uid, both.created) == (7, 1.0)


@pytest.mark.parametrize(
    "old, new, complete",
    [
        ({"complete": False, "paths": "a"}, {"complete": True, "paths": "ab"}, True),
        ({"complete": True, "paths": "ab"}, {"complete": False, "paths": "a"}, True),
        ({"complete": True, "paths": "a"}, {"complete": False, "paths": "ab"}, False),
        ({"complete": True, "paths": "a"}, {"complete": True, "paths": "ab"}, True),
        ({"complete": True, "paths": "a"}, {"complete": True, "paths": "b"}, False),
        ({"complete": False, "paths": "a"}, {"complete": False, "paths": "b"}, False),
        (
            {"complete": False, "paths": "a", "left_out": "b"},
            {"complete": False, "paths": "b", "left_out": "a"},
            True,
        ),
        (
            {"complete": False, "paths": "a", "left_out": "bc"},
            {"complete": False, "paths": "b", "left_out": "ac"},
            False,
        ),
        (
            {"complete": True, "paths": "a", "left_out": "b"},
            {"complete": False, "paths": "b"},
            True,
        ),
    ],
)
def test_merge_is_complete_only_by_one_that_knows_of_every_file(old, new, complete):
    def made(complete, paths, left_out=""):
        contents = {path: path.encode() for path in paths}
        reasons = dict.fromkeys(left_out, "not asked for")
        return manifest_of(contents, complete=complete, left_out=reasons)

    assert merge(made(**old), made(**new)).complete is complete


# --- import --------------------------------------------------------------------------------------


def adopt(store, path, **kwargs):
    fd = os.open(path, os.O_RDONLY)
    try:
        return store.intake.adopt(fd, kwargs.pop("promise", None), owner_job="import", **kwargs)
    finally:
        os.close(fd)


def test_adopt_links_a_file_of_ours_without_a_second_copy(store, root):
    source = root.parent / "weights.bin"
    source.write_bytes(TINY["unet/model.safetensors"])
    came = adopt(store, source, link_ok=True)
    blob = store.blobs.path(came.sha256)
    assert came.sha256 == sha256(TINY["unet/model.safetensors"])
    assert stat.S_IMODE(blob.stat().st_mode) == 0o440
    assert source.stat().st_ino == blob.stat().st_ino
    assert os.listdir(store.layout.ingests) == []


def test_adopt_copies_a_file_that_someone_has_open_for_writing(store, tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(b"w" * 5000)
    with source.open("r+b") as writer:
        came = adopt(store, source, link_ok=True)
        writer.write(b"changed")
    assert store.blobs.path(came.sha256).read_bytes() == b"w" * 5000


def test_adopt_without_leave_to_link_never_shares_the_inode(store, tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(b"w" * 5000)
    came = adopt(store, source, link_ok=False)
    assert store.blobs.path(came.sha256).stat().st_ino != source.stat().st_ino


def test_adopt_refuses_other_bytes_than_promised_and_leaves_nothing(store, tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(b"w" * 5000)
    with pytest.raises(DigestMismatch):
        adopt(store, source, link_ok=False, promise=promise_of(b"v" * 5000))
    assert list(store.blobs.list()) == []
    assert os.listdir(store.layout.ingests) == []
    with pytest.raises(UsageError):
        adopt(store, tmp_path, link_ok=True)
