"""Variants in the store: made of a snapshot, found by name, gone with it, never taken for it."""

import os
import sqlite3

import msgspec
import pytest
from huggingface_hub import scan_cache_dir

from harness.storekit import (
    COMMIT,
    HALF,
    MADE,
    REPO,
    TINY,
    TINY_GIT,
    draft,
    git_sha1,
    open_store,
    publish,
    publish_tiny,
    publish_variant,
    put,
    sha256,
    variant_of,
)
from zhcache.errors import Busy, IntegrityError, NotFound, NotPermitted, UsageError
from zhcached.errors import StoreDamaged
from zhcached.store import failpoints, kept
from zhcached.store.snapshots import Derived, check

NEXT = "0ddba11" + "0" * 33
AGAIN = "feedbeef" + "0" * 32
OWN_BYTES = sum(len(content) for content in HALF.values())
WEIGHTS = HALF["unet/model.safetensors"]


@pytest.fixture
def made(store):
    publish_tiny(store)
    publish_variant(store)
    return store


def spoil(store, content):
    """Writes into a blob, as a failing disk does."""
    path = store.blobs.path(sha256(content))
    path.chmod(0o640)
    with path.open("r+b") as file:
        file.write(b"DAMAGE")
    path.chmod(0o440)


def lose_manifest(store, commit):
    store.layout.manifest(REPO, commit).unlink()


# --- having one --------------------------------------------------------------------------------


def test_variant_is_a_whole_folder_of_plain_names(made):
    folder = made.view.snapshot_dir(REPO, MADE)
    for path, content in {**TINY, **HALF}.items():
        assert (folder / path).read_bytes() == content
    assert made.variant(REPO, COMMIT, "fp16").commit == MADE


def test_files_that_do_not_change_are_the_same_blobs(made):
    source = made.view.snapshot_dir(REPO, COMMIT)
    folder = made.view.snapshot_dir(REPO, MADE)
    for path in TINY_GIT:
        assert os.path.samefile(source / path, folder / path)
    home = made.layout.hub / REPO.folder
    assert (home / "blobs" / git_sha1(TINY["model_index.json"])).is_symlink()
    assert scan_cache_dir(made.layout.hub).warnings == []


def test_no_revision_but_its_whole_commit_means_a_variant(made):
    assert made.resolve(REPO, None).commit == COMMIT
    assert made.resolve(REPO, "main").commit == COMMIT
    assert made.resolve(REPO, MADE).commit == MADE
    with pytest.raises(NotFound):
        made.resolve(REPO, MADE[:12])


def test_newest_snapshot_is_never_a_variant(store):
    publish(store, TINY, ref=None, created=1.0)
    publish_variant(store, created=99.0)
    assert store.resolve(REPO, None).commit == COMMIT


def test_unknown_variant_is_told_with_those_that_are_here(made):
    with pytest.raises(NotFound, match="no variant int4 here; it has fp16") as raised:
        made.variant(REPO, COMMIT, "int4")
    assert "prefetch lab/tiny --variant int4" in raised.value.hint
    with pytest.raises(NotFound, match=r"no variant fp16 here \("):
        made.variant(REPO, NEXT, "fp16")


def test_newest_of_several_recipes_of_one_name_is_meant(made):
    publish_variant(made, {"unet/model.safetensors": b"again"}, commit=AGAIN, created=2.0)
    assert made.variant(REPO, COMMIT, "fp16").commit == AGAIN
    assert [m.commit for m in made.variants(REPO, COMMIT).values()] == [AGAIN]


def test_origin_tells_what_a_commit_is(made):
    assert made.origin(REPO, COMMIT) == (COMMIT, None)
    assert made.origin(REPO, MADE) == (COMMIT, "fp16")
    with pytest.raises(NotFound):
        made.origin(REPO, NEXT)


def test_ref_to_a_variant_is_refused(made):
    with pytest.raises(ValueError, match="ref"):
        made.publish(variant_of(), "main")


def test_lock_file_pins_no_variant(made):
    assert made.lock_file([str(REPO)]).repos[0].commit == COMMIT
    with pytest.raises(UsageError, match="no hub has"):
        made.lock_file([f"{REPO}@{MADE}"])


@pytest.mark.parametrize(
    "derived",
    [
        Derived("main", "fp16", "0" * 64),
        Derived(MADE, "fp16", "0" * 64),
        Derived(COMMIT, "../fp16", "0" * 64),
        Derived(COMMIT, "", "0" * 64),
        Derived(COMMIT, "FP16", "0" * 64),
        Derived(COMMIT, "x" * 65, "0" * 64),
        Derived(COMMIT, "fp16", "0" * 63),
    ],
)
def test_manifest_that_says_something_unsound_of_its_source_is_refused(derived):
    with pytest.raises((IntegrityError, UsageError)):
        check(msgspec.structs.replace(variant_of(), derived=derived))


def test_variant_made_again_must_come_out_the_same(made):
    publish_variant(made, created=5.0)
    assert made.variant(REPO, COMMIT, "fp16").created == 1.0
    with pytest.raises(IntegrityError, match="other content") as raised:
        publish_variant(made, {**HALF, "unet/model.safetensors": b"other"})
    assert "rm lab/tiny --variant fp16" in raised.value.hint
    with pytest.raises(IntegrityError):
        publish(made, TINY, ref=None, commit=MADE)
    assert made.variant(REPO, COMMIT, "fp16").bytes == variant_of().bytes


# --- what stands beside it ---------------------------------------------------------------------


def test_source_published_again_with_more_files_keeps_its_variants(store):
    part = {path: TINY[path] for path in TINY if path != "vae/deep/er/empty.txt"}
    publish(store, part, git=TINY_GIT, complete=False)
    publish_variant(store, source=part)
    publish_tiny(store)
    assert len(store.resolve(REPO, None).files) == len(TINY)
    assert store.variant(REPO, COMMIT, "fp16").commit == MADE


def test_next_commit_of_the_hub_has_no_variant_of_the_one_before(made):
    publish(made, {**TINY, "new": b"new"}, git=TINY_GIT, commit=NEXT, created=3.0)
    assert made.variants(REPO, NEXT) == {}
    assert list(made.variants(REPO, COMMIT)) == ["fp16"]


def test_listing_shows_a_variant_with_its_source_only(made):
    (snapshot,) = made.snapshots()
    assert snapshot.commit == COMMIT
    assert snapshot.variants["fp16"].path == str(made.view.snapshot_dir(REPO, MADE))
    assert snapshot.variants["fp16"].bytes == variant_of().bytes
    assert snapshot.variants["fp16"].state == "ready"
    assert made.sizes()[str(REPO), MADE] == variant_of().bytes


def test_detail_of_a_variant_has_its_own_files_and_its_sources_commit(made):
    shown = made.detail(REPO, None, "fp16")
    assert (shown.commit, shown.variant, shown.revisions) == (COMMIT, "fp16", [])
    assert shown.path == str(made.view.snapshot_dir(REPO, MADE))
    assert {file.path for file in shown.files} == {*TINY, *HALF}
    assert made.detail(REPO, MADE) == shown
    assert list(made.detail(REPO, None).variants) == ["fp16"]
    with pytest.raises(NotFound):
        made.detail(REPO, None, "int4")


def test_space_tells_what_only_the_variant_uses(made):
    (use,) = made.space_report().repos
    (variant,) = use.variants
    assert (variant.commit, variant.variant) == (COMMIT, "fp16")
    assert (variant.bytes, variant.bytes_own) == (variant_of().bytes, OWN_BYTES)
    assert use.snapshots == 1
    assert use.bytes == sum(len(c) for c in {*TINY.values(), *HALF.values()})


def test_gc_keeps_a_variant_and_names_it(made):
    made.leases.grant(REPO, MADE, uid=7, pid=os.getpid())
    reasons = {item.reason: item.bytes for item in made.gc().kept}
    lessee = f"leased by process {os.getpid()} of uid 7"
    assert reasons[f"used by lab/tiny@{COMMIT[:12]} (fp16), {lessee}"] == OWN_BYTES
    assert reasons["used by lab/tiny"] == sum(len(c) for c in TINY.values())
    assert made.variant(REPO, COMMIT, "fp16")


# --- letting go --------------------------------------------------------------------------------


def test_removed_variant_frees_what_was_its_own(made):
    removed = made.remove_variant(REPO, COMMIT, "fp16")
    assert (removed.commits, removed.variants) == ([], ["fp16"])
    assert removed.bytes_released == OWN_BYTES
    assert made.gc().bytes_freed == OWN_BYTES
    assert not made.view.snapshot_dir(REPO, MADE).exists()
    assert made.checks.verify().missing == []
    folder = made.view.snapshot_dir(REPO, COMMIT)
    assert {path: (folder / path).read_bytes() for path in TINY} == TINY


@pytest.mark.parametrize("of", [None, "main", COMMIT, COMMIT[:9]])
def test_variant_is_removed_by_any_name_of_its_source(made, of):
    publish_variant(made, {"unet/model.safetensors": b"again"}, commit=AGAIN, created=2.0)
    made.remove_variant(REPO, of, "fp16")
    assert made.snapshots()[0].variants == {}
    with pytest.raises(NotFound):
        made.remove_variant(REPO, of, "fp16")


def test_variant_of_another_commit_stays(made):
    publish(made, {**TINY, "new": b"new"}, git=TINY_GIT, commit=NEXT)
    publish_variant(made, of=NEXT, commit=AGAIN)
    made.remove_variant(REPO, NEXT, "fp16")
    assert made.variant(REPO, COMMIT, "fp16").commit == MADE
    publish_variant(made, of=NEXT, commit=AGAIN)
    assert made.remove(REPO, NEXT).variants == ["fp16"]
    assert made.variant(REPO, COMMIT, "fp16").commit == MADE


@pytest.mark.parametrize("revision", [None, "main"])
def test_source_takes_its_variants_along(made, revision):
    removed = made.remove(REPO, revision)
    assert (removed.commits, removed.variants) == ([COMMIT], ["fp16"])
    assert made.snapshots() == []
    assert not (made.layout.hub / REPO.folder).exists()
    assert not made.layout.repo(REPO).exists()
    assert removed.bytes_released == made.gc().bytes_freed
    assert list(made.blobs.list()) == []


def test_variant_may_be_removed_by_its_own_commit(made):
    assert made.remove(REPO, MADE).variants == ["fp16"]
    assert made.resolve(REPO, None).commit == COMMIT


def test_leased_variant_keeps_its_source_and_names_who(made):
    made.leases.grant(REPO, MADE, uid=7, pid=os.getpid())
    for remove in (
        lambda: made.remove(REPO, None),
        lambda: made.remove(REPO, "main"),
        lambda: made.remove_variant(REPO, None, "fp16"),
    ):
        with pytest.raises(Busy, match=f"process {os.getpid()} of uid 7"):
            remove()
    assert list(made.variants(REPO, COMMIT)) == ["fp16"]


def test_lease_of_the_source_does_not_keep_a_variant(made):
    made.leases.grant(REPO, COMMIT, uid=7, pid=os.getpid())
    assert made.remove_variant(REPO, None, "fp16").variants == ["fp16"]


def test_variant_of_another_user_is_his_to_remove(store):
    publish_tiny(store, uid=5)
    publish_variant(store, uid=6)
    with pytest.raises(NotPermitted):
        store.remove_variant(REPO, None, "fp16", 5, may_all=False)
    with pytest.raises(NotPermitted):
        store.remove(REPO, None, 5, may_all=False)
    assert store.snapshots()[0].variants
    assert store.remove_variant(REPO, None, "fp16", 6, may_all=False).variants == ["fp16"]


def test_pinned_repository_keeps_its_variants(made):
    made.pins.pin(REPO, 5)
    with pytest.raises(UsageError, match="pinned"):
        made.remove_variant(REPO, None, "fp16")
    assert made.variants(REPO, COMMIT)


# --- damage ------------------------------------------------------------------------------------


def test_damaged_bytes_of_a_variant_are_fetched_from_nowhere(made):
    spoil(made, WEIGHTS)
    made.checks.verify()
    with pytest.raises(IntegrityError, match=r"unet/model\.safetensors") as raised:
        made.variant(REPO, COMMIT, "fp16")
    assert "zhcache repair" in raised.value.hint
    assert made.checks.holes() == []
    assert made.broken_variants() == [(REPO, COMMIT, "fp16", MADE)]
    assert made.snapshots()[0].variants["fp16"].state == "damaged"
    assert made.snapshots()[0].complete
    assert made.resolve(REPO, None).commit == COMMIT


def test_verify_names_the_variant_that_damage_concerns(made):
    spoil(made, WEIGHTS)
    found = made.checks.verify()
    assert [blob.used_by for blob in found.damaged] == [[f"lab/tiny@{COMMIT[:12]} (fp16)"]]
    assert found.missing == [f"lab/tiny@{COMMIT[:12]} (fp16) unet/model.safetensors"]


def test_damage_to_what_both_share_is_mended_by_fetching(made):
    spoil(made, TINY["unet/config.json"])
    assert [blob.used_by for blob in made.checks.verify().damaged] == [["lab/tiny"]]
    assert [(commit, path) for _, commit, path, _ in made.checks.holes()] == [
        (COMMIT, "unet/config.json")
    ]
    assert made.broken_variants() == [(REPO, COMMIT, "fp16", MADE)]
    put(made, TINY["unet/config.json"])
    assert made.broken_variants() == []
    assert made.variant(REPO, COMMIT, "fp16").commit == MADE


def test_broken_newest_is_not_replaced_by_an_older_one_in_silence(made):
    own = {"unet/model.safetensors": b"again" * 100}
    publish_variant(made, own, commit=AGAIN, created=2.0)
    spoil(made, own["unet/model.safetensors"])
    made.checks.verify()
    with pytest.raises(IntegrityError):
        made.variant(REPO, COMMIT, "fp16")


def test_variant_made_anew_with_other_bytes_takes_the_broken_ones_place(made):
    spoil(made, WEIGHTS)
    made.checks.verify()
    own = {"unet/other.safetensors": b"other tools"}
    publish_variant(made, own)
    folder = made.view.snapshot_dir(REPO, MADE)
    assert (folder / "unet/other.safetensors").read_bytes() == b"other tools"
    assert (folder / "unet/model.safetensors").read_bytes() == TINY["unet/model.safetensors"]
    assert not (folder / "zhcache-variant.json").exists()
    assert made.broken_variants() == []
    assert made.checks.verify().missing == []


def test_variant_made_anew_with_the_same_bytes_is_whole_again(made):
    spoil(made, WEIGHTS)
    made.checks.verify()
    publish_variant(made)
    assert made.broken_variants() == []
    assert made.variant(REPO, COMMIT, "fp16").commit == MADE


def test_rebuild_brings_variants_back_without_network(root, clock):
    store = open_store(root, clock)
    publish_tiny(store)
    publish_variant(store)
    before = store.detail(REPO, None, "fp16")
    store.close()
    store.layout.index.unlink()
    store = open_store(root, clock)
    store.rebuild()
    assert store.problems == []
    assert store.detail(REPO, None, "fp16") == before
    assert store.resolve(REPO, None).commit == COMMIT
    store.close()


def test_flipped_bit_in_the_index_does_not_make_a_variant_of_another(root, clock):
    store = open_store(root, clock)
    publish_tiny(store)
    publish_variant(store)
    with store.catalog.write() as db:
        db.conn.execute("UPDATE snapshots SET derived_of=NULL, variant=NULL")
    store.close()
    store = open_store(root, clock)
    assert store.origin(REPO, MADE) == (COMMIT, "fp16")
    store.close()


def test_lost_source_is_named_listed_and_fetched_again(root, clock):
    """Its variant works on; what it was made of is asked for again by its commit."""
    store = open_store(root, clock, grace=0.0)
    publish(store, TINY, git=TINY_GIT, ref=None)
    publish_variant(store)
    lose_manifest(store, COMMIT)
    store.close()
    store = open_store(root, clock, grace=0.0)
    assert any(COMMIT in problem for problem in store.problems)
    assert store.variant(REPO, COMMIT, "fp16").commit == MADE
    assert store.checks.lost() == [(REPO, COMMIT, COMMIT)]
    assert f"lab/tiny {COMMIT}: its manifest" in store.checks.verify().missing
    (left,) = store.snapshots()
    assert (left.commit, left.complete, list(left.variants)) == (COMMIT, False, ["fp16"])
    assert store.gc().bytes_freed == 0
    publish(store, TINY, git=TINY_GIT, ref=None)
    assert (store.checks.lost(), store.snapshots()[0].complete) == ([], True)
    store.close()


def test_variants_without_their_source_can_be_removed(root, clock):
    store = open_store(root, clock)
    publish_tiny(store)
    publish_variant(store)
    publish_variant(store, {"a": b"a"}, name="int8", commit=AGAIN)
    lose_manifest(store, COMMIT)
    store.close()
    store = open_store(root, clock)
    assert store.remove_variant(REPO, COMMIT, "int8").variants == ["int8"]
    assert store.remove(REPO, None).variants == ["fp16"]
    assert store.snapshots() == []
    store.close()


def test_unreadable_manifest_of_a_variant_is_set_aside_and_it_can_be_made_again(root, clock):
    store = open_store(root, clock)
    publish_tiny(store)
    publish_variant(store)
    store.layout.manifest(REPO, MADE).write_bytes(b"{")
    with pytest.raises(StoreDamaged):
        store.variant(REPO, COMMIT, "fp16")
    store.rebuild()
    assert store.variants(REPO, COMMIT) == {}
    assert store.resolve(REPO, None).commit == COMMIT
    publish_variant(store)
    assert store.variant(REPO, COMMIT, "fp16").commit == MADE
    store.close()


# --- stores of earlier versions ----------------------------------------------------------------


def as_version_1(store):
    """Makes the index what the first version left."""
    with sqlite3.connect(store.layout.index) as conn:
        conn.execute("ALTER TABLE snapshots DROP COLUMN derived_of")
        conn.execute("ALTER TABLE snapshots DROP COLUMN variant")
        conn.execute("PRAGMA user_version=1")
    conn.close()


def test_index_of_the_first_version_is_brought_up_and_loses_nothing(root, clock):
    store = open_store(root, clock)
    publish_tiny(store)
    lease = store.leases.grant(REPO, COMMIT, uid=7, pid=os.getpid())
    kept.save_job(store.catalog, "job", "key", "prefetch", "done", 7, 1.0, 2.0, b"record")
    with store.catalog.write() as db:
        db.conn.execute("UPDATE blobs SET suspect=1, verified_at=5.0")
    store.close()
    as_version_1(store)
    store = open_store(root, clock)
    assert store.problems == []
    assert store.catalog.set_aside is None
    assert store.leases.owner(lease) == 7
    assert kept.load_jobs(store.catalog) == [("job", b"record")]
    assert store.catalog.rows("SELECT DISTINCT suspect, verified_at FROM blobs") == [(1, 5.0)]
    publish_variant(store)
    assert store.variant(REPO, COMMIT, "fp16").commit == MADE
    store.close()


def test_damaged_index_of_the_first_version_is_set_aside_and_made_anew(root, clock):
    store = open_store(root, clock)
    publish_tiny(store)
    store.close()
    as_version_1(store)
    with sqlite3.connect(store.layout.index) as conn:
        conn.execute("DROP TABLE pins")
    conn.close()
    store = open_store(root, clock)
    assert store.catalog.set_aside is not None
    assert store.resolve(REPO, None).commit == COMMIT
    store.close()


def test_manifest_that_says_nothing_of_variants_is_a_hubs(store):
    publish_tiny(store)
    path = store.layout.manifest(REPO, COMMIT)
    record = msgspec.json.decode(path.read_bytes())
    del record["derived"]
    path.write_bytes(msgspec.json.encode(record))
    store.rebuild()
    assert store.origin(REPO, COMMIT) == (COMMIT, None)


# --- a publish that fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["publish.before_manifest", "publish.after_manifest", "publish.after_view"]
)
def test_publish_that_fails_shows_no_variant_and_the_next_one_does(store, monkeypatch, point):
    publish_tiny(store)
    with monkeypatch.context() as broken:
        broken.setitem(failpoints.ARMED, point, "enospc")
        with pytest.raises(OSError, match="space"):
            publish_variant(store)
    assert store.variants(REPO, COMMIT) == {}
    assert store.snapshots()[0].variants == {}
    publish_variant(store)
    assert store.variant(REPO, COMMIT, "fp16").commit == MADE


def test_variant_whose_blob_is_not_here_is_refused(store):
    publish_tiny(store)
    draft(store, HALF["zhcache-variant.json"])
    with pytest.raises(IntegrityError, match=r"unet/model\.safetensors"):
        store.publish(variant_of(), None)
    assert store.variants(REPO, COMMIT) == {}


def test_lease_of_a_variant_survives_the_removal_of_another_snapshot(made):
    publish(made, {**TINY, "new": b"new"}, git=TINY_GIT, commit=NEXT, created=3.0)
    made.leases.grant(REPO, MADE, uid=7, pid=os.getpid())
    made.remove(REPO, NEXT)
    made.gc()
    assert made.variant(REPO, COMMIT, "fp16").commit == MADE
