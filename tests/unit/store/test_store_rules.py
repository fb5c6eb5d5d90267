"""The eight store rules of the design, one section each."""

import errno
import os
import re
import subprocess
import sys

import pytest

from harness.storekit import (
    COMMIT,
    REPO,
    TINY,
    Clock,
    manifest_of,
    open_store,
    promise_of,
    publish_tiny,
    put,
    sha256,
    tree_of,
)
from zhcache.errors import AlreadyRunning, IntegrityError, NoSpace, NotPermitted, VersionMismatch
from zhcached.store import files, kept
from zhcached.store.layout import Layout

CONTENT = b"weights" * 5000

# 1. Commit order ---------------------------------------------------------------------------------


def recorded_calls(monkeypatch, names):
    """Wraps functions of ``os``, and returns the list their calls are appended to."""
    calls = []

    def wrap(name, real):
        def wrapper(*args, **kwargs):
            what = args[0]
            path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else str(what)
            calls.append((name, path))
            return real(*args, **kwargs)

        return wrapper

    for name in names:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    return calls


def test_rule1_commit_is_read_only_then_durable_then_named_then_its_folder_is_durable(
    store, monkeypatch
):
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    ingest.write(0, CONTENT, "hub")
    data = str(store.layout.ingest(ingest.key) / "data")
    blob = store.blobs.path(sha256(CONTENT))
    calls = recorded_calls(monkeypatch, ["fchmod", "fsync", "rename", "fdatasync"])
    ingest.commit()
    of_commit = [
        (name, path) for name, path in calls if path in (data, str(blob), str(blob.parent))
    ]
    assert of_commit == [
        ("fchmod", data),
        ("fsync", data),
        ("rename", data),
        ("fsync", str(blob.parent)),
    ]


def test_rule1_journal_names_ranges_only_after_their_bytes_are_durable(store, monkeypatch):
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    ingest.write(0, CONTENT, "hub")
    folder = store.layout.ingest(ingest.key)
    calls = recorded_calls(monkeypatch, ["fdatasync", "fsync", "write"])
    ingest.sync()
    ingest.close()
    assert calls == [
        ("fdatasync", str(folder / "data")),
        ("write", str(folder / "journal")),
        ("fdatasync", str(folder / "journal")),
        ("fsync", str(folder)),
        ("fsync", str(folder.parent)),
    ]


def test_rule1_manifest_is_durable_before_it_has_its_name(tmp_path, monkeypatch):
    calls = recorded_calls(monkeypatch, ["fsync", "rename", "replace"])
    files.write_durably(tmp_path / "m.json", b"{}")
    names = [(name, re.sub(r"\.m\.json\..*", "temporary", path)) for name, path in calls]
    assert names[0] == ("fsync", str(tmp_path / "temporary"))
    assert names[-1] == ("fsync", str(tmp_path))
    assert (tmp_path / "m.json").read_bytes() == b"{}"


# 2. Blobs are only ever unlinked ------------------------------------------------------------------


def test_rule2_mapped_blob_stays_readable_and_the_same_after_rm_and_gc(store):
    publish_tiny(store)
    weights = TINY["unet/model.safetensors"]
    fd = store.blobs.open(sha256(weights))
    store.remove(REPO, None)
    assert store.gc().bytes_freed > 0
    assert not store.blobs.has(sha256(weights))
    assert os.pread(fd, len(weights), 0) == weights
    os.close(fd)


def test_rule2_publishing_and_fetching_again_leaves_the_same_inode(store):
    publish_tiny(store)
    name = sha256(TINY["unet/model.safetensors"])
    before = store.blobs.identity(name)
    put(store, TINY["unet/model.safetensors"])
    publish_tiny(store, source="other")
    store.rebuild()
    assert store.blobs.identity(name) == before


# 3. The index is a cache --------------------------------------------------------------------------


def facts(store):
    return (store.snapshots(), store.detail(REPO, None), store.resolve(REPO, "main"))


def test_rule3_index_comes_back_from_disk_when_it_is_deleted(root):
    store = open_store(root)
    publish_tiny(store)
    store.pins.pin(REPO, 7)
    before = facts(store)
    store.close()
    for path in root.glob("index.sqlite*"):
        path.unlink()
    again = open_store(root)
    assert facts(again) == before
    again.close()


def test_rule3_rebuild_makes_index_and_view_from_manifests_and_blobs_alone(store):
    publish_tiny(store)
    before = facts(store), tree_of(store.layout.hub)
    store.catalog.clear(["files", "snapshots", "blobs", "refs", "pins"])
    subprocess.run(["rm", "-r", store.layout.hub / REPO.folder], check=True)
    assert store.snapshots() == []
    store.rebuild()
    assert (facts(store), tree_of(store.layout.hub)) == before


def test_rule3_index_writes_are_durable_and_immediate(store):
    [(mode,)] = store.catalog.rows("PRAGMA journal_mode")
    [(sync,)] = store.catalog.rows("PRAGMA synchronous")
    [(mapped,)] = store.catalog.rows("PRAGMA mmap_size")
    [(foreign,)] = store.catalog.rows("PRAGMA foreign_keys")
    assert (mode, sync, mapped, foreign) == ("wal", 2, 0, 1)
    statements = []
    with store.catalog.read() as conn:
        conn.set_trace_callback(statements.append)
    store.leases.prune_dead()
    kept.save_health(store.catalog, "hub", b"{}")
    assert statements[-3] == "BEGIN IMMEDIATE"
    assert statements[-1] == "COMMIT"


# 4. No path component comes from the network -----------------------------------------------------

HOSTILE = ["../evil", "/etc/passwd", "a/../../b", "a//b", ".git/config", "a\\b", "a\0b", "x/."]


@pytest.mark.parametrize("path", HOSTILE)
def test_rule4_manifest_with_a_hostile_path_is_refused_and_writes_nothing(store, path):
    before = tree_of(store.layout.root / "repos"), tree_of(store.layout.hub)
    put(store, CONTENT)
    with pytest.raises(IntegrityError):
        store.publish(manifest_of({path: CONTENT}), "main")
    assert (tree_of(store.layout.root / "repos"), tree_of(store.layout.hub)) == before


@pytest.mark.parametrize("path", HOSTILE[:4])
def test_rule4_hostile_path_planted_in_a_manifest_on_disk_never_reaches_the_view(root, path):
    store = open_store(root)
    publish_tiny(store)
    manifest = store.layout.manifest(REPO, COMMIT)
    store.close()
    quoted = path.replace("\\", "\\\\")
    manifest.write_text(manifest.read_text().replace("unet/config.json", quoted))
    for index in root.glob("index.sqlite*"):
        index.unlink()
    again = open_store(root)
    assert again.snapshots() == []
    assert len(again.problems) == 1
    again.close()


@pytest.mark.parametrize("place", ["", "snapshots", f"snapshots/{COMMIT}", "blobs", "refs"])
def test_rule4_folder_link_planted_in_the_view_is_replaced_and_never_followed(
    store, tmp_path, place
):
    outside = tmp_path / "outside"
    outside.mkdir()
    spot = store.layout.hub / REPO.folder / place
    spot.parent.mkdir(parents=True, exist_ok=True)
    spot.symlink_to(outside, target_is_directory=True)
    folder = publish_tiny(store)
    assert list(outside.iterdir()) == []
    assert not spot.is_symlink()
    assert {k: (folder / k).read_bytes() for k in TINY} == TINY


@pytest.mark.parametrize("place", [f"trees/{COMMIT}.json", "refs/main", "snapshots/{c}/unet"])
def test_rule4_file_link_planted_in_the_view_is_replaced_and_never_written_through(
    store, tmp_path, place
):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    spot = store.layout.hub / REPO.folder / place.format(c=COMMIT)
    spot.parent.mkdir(parents=True, exist_ok=True)
    spot.symlink_to(victim)
    publish_tiny(store)
    assert victim.read_text() == "precious"
    assert not spot.is_symlink()


def test_rule4_removal_deletes_links_and_never_what_they_point_to(store, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    folder = publish_tiny(store)
    (folder / "planted").symlink_to(precious, target_is_directory=True)
    store.remove(REPO, None)
    assert (precious / "file").read_text() == "kept"


# 5. Collection: see test_store_gc -----------------------------------------------------------------

# 6. Space is reserved before a download starts ---------------------------------------------------


def test_rule6_nothing_starts_below_min_free_and_the_error_says_what_to_do(root):
    disk = os.statvfs(root.parent)
    store = open_store(root, min_free=disk.f_bavail * disk.f_frsize * 2)
    with pytest.raises(NoSpace) as raised:
        store.intake.begin(promise_of(CONTENT), "job")
    assert str(len(CONTENT)) in raised.value.message
    assert "zhcache gc" in raised.value.hint
    with pytest.raises(NoSpace):
        store.intake.begin(promise_of(CONTENT), "job")
    assert store.space.reserved == 0
    store.close()


def test_rule6_quota_counts_blobs_partials_and_reservations(root):
    store = open_store(root, quota=100_000)
    store.intake._fallocate = False
    put(store, b"a" * 40_000)
    partial = store.intake.begin(promise_of(b"b" * 40_000), "job")
    partial.write(0, b"b" * 20_000, "hub")
    partial.close()
    with store.space.reserve(10_000), pytest.raises(NoSpace, match="quota"):
        store.intake.begin(promise_of(b"c" * 30_000), "job")
    store.intake.begin(promise_of(b"c" * 30_000), "job").close()
    with pytest.raises(NoSpace, match="quota"):
        store.intake.begin(promise_of(b"d" * 40_000), "job")
    resumed = store.intake.begin(promise_of(b"b" * 40_000), "job")
    resumed.close()
    store.close()


def test_rule6_room_is_given_back_however_the_ingest_ends(store):
    store.intake._fallocate = False
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    assert store.space.reserved == len(CONTENT)
    ingest.write(0, CONTENT[:1000], "hub")
    assert store.space.reserved == len(CONTENT) - 1000
    ingest.close()
    assert store.space.reserved == 0
    put(store, CONTENT)
    assert store.space.reserved == 0


def test_rule6_blocks_are_set_aside_on_disk_where_the_file_system_can(store):
    store.intake._fallocate = True
    ingest = store.intake.begin(promise_of(CONTENT), "job")
    assert ingest._file.path.stat().st_blocks * 512 >= len(CONTENT)
    assert store.space.reserved == 0
    ingest.close()


# 7. One daemon per store, on a local disk ---------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from harness.storekit import open_store
store = open_store(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def start_holder(root):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert child.stdout.readline() == "open\n"
    return child


def test_rule7_second_daemon_is_refused_by_pid_and_let_in_once_the_first_is_killed(root):
    child = start_holder(root)
    try:
        with pytest.raises(AlreadyRunning) as raised:
            open_store(root)
        assert str(child.pid) in raised.value.message
    finally:
        child.kill()
        child.communicate()
    open_store(root).close()


def test_rule7_lock_is_given_up_when_opening_fails(root, monkeypatch):
    monkeypatch.setattr("zhcached.store.recovery.Recovery.recover", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_store(root)
    monkeypatch.undo()
    open_store(root).close()


@pytest.mark.parametrize(
    "name, kind", [("NFS", 0x6969), ("Lustre", 0x0BD00BD0), ("FUSE", 0x65735546)]
)
def test_rule7_store_on_a_network_file_system_is_refused_unless_forced(tmp_path, name, kind):
    layout = Layout(tmp_path / "not" / "yet")
    with pytest.raises(NotPermitted, match=name):
        layout.check(fs_type=lambda path: kind)
    layout.check(force=True, fs_type=lambda path: kind)
    layout.check(fs_type=lambda path: 0xEF53)
    assert not layout.root.exists()


def test_rule7_store_of_another_format_is_refused_and_left_alone(root):
    open_store(root).close()
    (root / "format").write_text("zhcache-store 2\n")
    before = tree_of(root)
    with pytest.raises(VersionMismatch, match="zhcache-store 2"):
        open_store(root)
    assert tree_of(root) == before


# 8. When bytes are read again ---------------------------------------------------------------------


def damage(path, *, keep_times=True):
    """Flips one byte behind the store's back; its size stays, its mtime too if so wished."""
    before = path.stat()
    path.chmod(0o640)
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o440)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("restart", [False, True])
def test_rule8_blob_that_was_touched_is_read_again_before_it_is_used(root, restart):
    store = open_store(root)
    publish_tiny(store)
    weights = TINY["unet/model.safetensors"]
    damage(store.blobs.path(sha256(weights)))
    if restart:
        store.close()
        store = open_store(root)
        with pytest.raises(IntegrityError) as raised:
            store.resolve(REPO, None)
        assert "repair" in raised.value.hint
    assert store.presence.find(promise_of(weights)) is None
    assert not store.blobs.has(sha256(weights))
    assert len(list(store.layout.quarantine.iterdir())) == 1
    put(store, weights)
    assert store.resolve(REPO, None).commit == COMMIT
    store.close()


def test_rule8_blob_whose_inode_changed_but_whose_bytes_did_not_stays(root):
    store = open_store(root)
    publish_tiny(store)
    path = store.blobs.path(sha256(TINY["unet/model.safetensors"]))
    os.utime(path)
    store.close()
    store = open_store(root)
    assert store.resolve(REPO, None).commit == COMMIT
    assert store.catalog.rows("SELECT COUNT(*) FROM blobs WHERE suspect")[0][0] == 0
    store.close()


def test_rule8_verify_finds_a_flipped_bit_and_names_who_is_hurt(store):
    publish_tiny(store)
    weights = TINY["unet/model.safetensors"]
    damage(store.blobs.path(sha256(weights)))
    seen = []
    result = store.checks.verify(progress=seen.append)
    assert [(d.sha256, d.used_by) for d in result.damaged] == [(sha256(weights), [str(REPO)])]
    assert result.missing == [f"{REPO} unet/model.safetensors"]
    assert sum(seen) == result.bytes == sum(len(c) for c in set(TINY.values()))
    assert store.checks.holes() == [
        (REPO, COMMIT, "unet/model.safetensors", promise_of(weights)),
    ]
    assert store.snapshots()[0].complete is False


def test_rule8_unreadable_blob_goes_to_quarantine(store, monkeypatch):
    publish_tiny(store)
    weights = sha256(TINY["unet/model.safetensors"])
    real = store.blobs.hash

    def broken(name, **kwargs):
        if name == weights:
            raise OSError(errno.EIO, "Input/output error")
        return real(name, **kwargs)

    monkeypatch.setattr(store.blobs, "hash", broken)
    assert [d.sha256 for d in store.checks.verify().damaged] == [weights]
    assert store.problems


def test_rule8_nothing_is_read_again_when_nothing_was_touched(root, monkeypatch):
    store = open_store(root)
    publish_tiny(store)
    store.close()
    monkeypatch.setattr("zhcached.store.blobs.hash_file", lambda *a, **k: pytest.fail("re-read"))
    store = open_store(root, Clock(wall=2_000_000_000.0))
    assert store.resolve(REPO, None).commit == COMMIT
    assert store.presence.find(promise_of(TINY["unet/model.safetensors"])) is not None
    store.close()


def test_rule6_bytes_of_blobs_are_counted_right_through_commits_and_collections(store, clock):
    def is_right():
        [(total,)] = store.catalog.rows("SELECT COALESCE(SUM(size), 0) FROM blobs")
        return (
            store.intake._blob_bytes()
            == total
            == sum(found.size for _, found in store.blobs.list())
        )

    assert is_right()
    publish_tiny(store)
    put(store, CONTENT)
    put(store, CONTENT)
    put(store, CONTENT, git=True)
    assert is_right()
    store.remove(REPO, None)
    clock.pass_s(10**6)
    store.gc()
    assert is_right()
    put(store, CONTENT)
    damage(store.blobs.path(sha256(CONTENT)))
    store.checks.verify()
    assert is_right()
    put(store, CONTENT)
    store.rebuild()
    assert is_right()
