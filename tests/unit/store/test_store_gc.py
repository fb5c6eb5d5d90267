import os
import threading

import pytest

from harness.storekit import (
    COMMIT,
    GRACE,
    REPO,
    TINY,
    Clock,
    open_store,
    promise_of,
    publish_tiny,
    put,
    sha256,
)
from zhcache.errors import fill
from zhcached.store.gc import GcState, Leftover, UnusedBlob, UsedBlobs, plan


def state(**fields):
    settings = {
        "unused": (),
        "used": (),
        "held": {},
        "ingests": (),
        "quarantine": (),
        "grace_s": 100.0,
        "keep_partial_s": 1000.0,
    }
    return GcState(**{**settings, **fields})


def test_plan_gives_every_kept_thing_its_reason():
    chosen = plan(
        state(
            unused=(UnusedBlob("a", 1, 50.0, False), UnusedBlob("b", 2, 500.0, False)),
            used=(UsedBlobs("lab/tiny", 10, 3, ("process 7 of uid 8",)),),
            held={"b": "job-1"},
            ingests=(Leftover("i", 4, 5.0), Leftover("j", 4, 5000.0, is_active=True)),
            quarantine=(Leftover("q", 8, 10.0),),
        )
    )
    assert chosen.remove == ()
    assert [(item.kind, item.bytes, item.reason) for item in chosen.keep] == [
        ("blob", 10, "used by lab/tiny, leased by process 7 of uid 8"),
        ("blob", 2, "needed by the running job job-1"),
        ("blob", 1, "younger than the grace time of 100 s"),
        ("ingest", 4, "partial download, resumable for another 995 s"),
        ("ingest", 4, "download in progress"),
        ("quarantine", 8, "damaged; kept another 990 s so that it can be examined"),
    ]

    said = [[fill(phrase.template, phrase.values) for phrase in item.why] for item in chosen.keep]
    assert said == [[item.reason] for item in chosen.keep]


def test_plan_removes_what_is_old_and_what_rm_released():
    chosen = plan(
        state(
            unused=(UnusedBlob("a", 1, 100.0, False), UnusedBlob("b", 2, 0.0, True)),
            ingests=(Leftover("i", 4, 1000.0),),
            quarantine=(Leftover("q", 8, 1000.0),),
        )
    )
    assert [(i.kind, i.name) for i in chosen.remove] == [
        ("blob", "a"),
        ("blob", "b"),
        ("ingest", "i"),
        ("quarantine", "q"),
    ]
    assert chosen.keep == ()


def names(store):
    return {name for name, _ in store.blobs.list()}


def test_gc_frees_at_once_what_rm_let_go_and_nothing_else(store):
    publish_tiny(store)
    put(store, b"work in progress")
    store.remove(REPO, None)
    dry = store.gc(dry_run=True)
    assert len(names(store)) == len(TINY) + 1
    report = store.gc()
    assert report.bytes_freed == dry.bytes_freed == sum(len(c) for c in TINY.values())
    assert names(store) == {sha256(b"work in progress")}


def test_gc_keeps_unused_blobs_for_the_grace_time(store, clock):
    put(store, b"orphan")
    clock.pass_s(GRACE - 1)
    assert store.gc().bytes_freed == 0
    clock.pass_s(1)
    assert store.gc().bytes_freed == 6


def test_gc_deletes_nothing_early_when_the_wall_clock_jumps(store, clock):
    put(store, b"orphan")
    partial = store.intake.begin(promise_of(b"x" * 9000), "job")
    partial.write(0, b"x", "hub")
    partial.close()
    ten_years = 10 * 365 * 86400
    clock.now += ten_years
    report = store.gc()
    assert [item for item in report.removed if item.kind == "blob"] == []
    clock.now -= ten_years + 3 * 86400
    assert store.gc().removed == []


def test_gc_counts_the_age_of_another_boots_blobs_from_its_own_start(root, monkeypatch):
    clock = Clock(monotonic=90_000.0)
    store = open_store(root, clock)
    put(store, b"orphan")
    store.close()
    monkeypatch.setattr("zhcached.store.context.boot_id", lambda: "next boot")
    clock.mono = 10.0
    store = open_store(root, clock)
    assert store.gc().bytes_freed == 0
    clock.mono += GRACE
    assert store.gc().bytes_freed == 6
    store.close()


def test_gc_keeps_what_a_running_job_committed_however_long_it_runs(store, clock):
    put(store, b"orphan", keep_hold=True)
    clock.pass_s(GRACE * 100)
    assert "job job" in store.gc().kept[0].reason
    store.leases.release_holds("job")
    assert store.gc().bytes_freed == 6


def test_gc_keeps_a_released_blob_that_a_new_job_found(store):
    publish_tiny(store)
    weights = TINY["unet/model.safetensors"]
    store.remove(REPO, None)
    assert store.presence.find(promise_of(weights), owner_job="again") is not None
    store.gc()
    assert names(store) == {sha256(weights)}


def test_gc_looks_again_at_each_blob_between_plan_and_unlink(store, clock):
    """What was garbage when the plan was made is published before it is carried out."""
    for content in TINY.values():
        put(store, content)
    clock.pass_s(GRACE * 2)
    collector = store._collector
    chosen = plan(collector.look())
    assert len(chosen.remove) == len(TINY)
    publish_tiny(store)
    assert collector.execute(chosen) == []
    assert len(names(store)) == len(TINY)


def test_gc_looks_for_holds_again_as_it_unlinks(store, clock):
    put(store, b"old and unused")
    clock.pass_s(GRACE * 2)
    chosen = plan(store._collector.look())
    assert len(chosen.remove) == 1
    store.leases.hold("late", sha256(b"old and unused"))
    assert store._collector.execute(chosen) == []
    assert names(store) == {sha256(b"old and unused")}


def test_gc_keeps_leased_snapshots_and_says_by_whom(store, clock):
    publish_tiny(store)
    store.leases.grant(REPO, COMMIT, uid=5, pid=os.getpid())
    clock.pass_s(GRACE * 2)
    report = store.gc()
    assert report.bytes_freed == 0
    assert f"leased by process {os.getpid()} of uid 5" in report.kept[0].reason


def test_gc_removes_partials_that_nobody_resumed_but_not_open_ones(root):
    clock = Clock()
    clock.now = os.stat("/proc/self").st_mtime + 3600
    store = open_store(root, clock, keep_partial=3600.0)
    stale = store.intake.begin(promise_of(b"s" * 9000), "job")
    stale.close()
    active = store.intake.begin(promise_of(b"a" * 9000), "job")
    clock.pass_s(2 * 86400)
    report = store.gc()
    assert [item.name for item in report.removed] == [stale.key]
    assert os.listdir(store.layout.ingests) == [active.key]
    assert store.ingests.retire(active.key) is None
    active.close()
    store.close()


def test_commit_of_bytes_that_gc_is_about_to_unlink_ends_with_the_blob_here(store, clock):
    """Two promises of one content: one blob old and unused, the other just being committed."""
    content = b"c" * 4000
    for _ in range(30):
        put(store, content)
        clock.pass_s(GRACE * 2)
        ingest = store.intake.begin(promise_of(content, git=True), "late")
        ingest.write(0, content, "hub")
        collecting = threading.Thread(target=store.gc)
        collecting.start()
        ingest.commit()
        collecting.join()
        assert store.blobs.has(sha256(content))
        assert store.presence.find(promise_of(content)) is not None
        store.leases.release_holds("late")


@pytest.mark.parametrize("size", [0, 200])
def test_gc_goes_through_more_than_one_batch(store, clock, size):
    for number in range(size):
        put(store, b"%d" % number)
    clock.pass_s(GRACE)
    assert len(store.gc().removed) == size
    assert names(store) == set()
