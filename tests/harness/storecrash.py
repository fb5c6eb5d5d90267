"""One life of a store, run in a forked child that is killed at a named point, and its oracle."""

import os
import sys
import traceback

from huggingface_hub import scan_cache_dir

from harness.storekit import (
    COMMIT,
    HALF,
    MADE,
    REPO,
    TINY,
    TINY_GIT,
    Clock,
    manifest_of,
    open_store,
    promise_of,
    publish_tiny,
    publish_variant,
    sha256,
)
from zhcached.store import failpoints

LARGE = bytes(range(256)) * 40_000  # over the size from which commit journals before it names
OTHER = "0ddba11" + "0" * 33
NEXT = {**TINY, "unet/model.safetensors": LARGE}


def live(root, say):
    """Fetches, publishes, makes a variant, moves on to a new commit, removes the old, collects."""
    store = open_store(root, Clock())
    say("opened")
    publish_tiny(store)
    say("published")
    publish_variant(store)
    say("made")
    ingest = store.intake.begin(promise_of(LARGE), "job")
    for start, end in ingest.missing():
        middle = (start + end) // 2
        ingest.write(middle, LARGE[middle:end], "b")
        ingest.sync()
        say("half")
        ingest.write(start, LARGE[start:middle], "a")
    ingest.commit()
    say("committed")
    store.publish(manifest_of(NEXT, git=TINY_GIT, commit=OTHER), "main")
    say("moved")
    if COMMIT in [s.commit for s in store.snapshots()]:
        store.remove(REPO, COMMIT)
    say("removed")
    store.gc()
    say("collected")
    store.close()


def run_and_kill(root, point=None, *, since="opened", before=None):
    """Lives once in a child, killed at ``point`` once it said ``since``.

    Returns what it said and how it ended.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            failpoints.ARMED.clear()
            if before is not None:
                before()

            def say(word):
                if word == since and point:
                    failpoints.ARMED[point] = "kill"
                os.write(writer, word.encode() + b"\n")

            live(root, say)
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = lines.read().split()
    _, status = os.waitpid(child, 0)
    return said, os.waitstatus_to_exitcode(status)


def check_survivor(root, said):
    """What must hold after any end: nothing promised is lost, nothing shown is broken."""
    store = open_store(root, Clock())
    try:
        assert store.problems == []
        assert store.checks.verify().damaged == []
        known = {COMMIT: TINY, OTHER: NEXT}
        for snapshot in store.snapshots():
            assert snapshot.complete
            check_folder(snapshot.path, known[snapshot.commit])
            for made in snapshot.variants.values():
                assert made.state == "ready"
                check_folder(made.path, {**TINY, **HALF})
        seen = store.view.snapshot_dir(REPO, MADE)
        if seen.exists():
            assert store.variant(REPO, COMMIT, "fp16").commit == MADE
        if "made" in said and "moved" not in said:
            check_folder(seen, {**TINY, **HALF})
        assert store.catalog.rows("SELECT * FROM snapshots WHERE removing") == []
        commits = {snapshot.commit for snapshot in store.snapshots()}
        if "published" in said and "moved" not in said:
            assert COMMIT in commits
        if "committed" in said:
            assert store.presence.find(promise_of(LARGE)) is not None
        elif "half" in said:
            ingest = store.intake.begin(promise_of(LARGE), "look")
            assert ingest.missing().total <= len(LARGE) // 2
            ingest.close()
        if "moved" in said:
            assert store.resolve(REPO, "main").commit == OTHER
        if "removed" in said:
            assert commits == {OTHER}
        for ref in [r for s in store.snapshots() for r in s.revisions]:
            assert store.resolve(REPO, ref).commit in commits
        assert scan_cache_dir(store.layout.hub).warnings == []
    finally:
        store.close()


def check_folder(folder, contents):
    for path, content in contents.items():
        with open(os.path.join(folder, path), "rb") as file:
            assert file.read() == content, path


def check_end(root):
    """After one undisturbed life: exactly the new snapshot's blobs, and nothing half done."""
    check_survivor(root, ["published", "moved", "removed"])
    store = open_store(root, Clock(monotonic=10**9))
    try:
        store.gc()
        assert {name for name, _ in store.blobs.list()} == {sha256(c) for c in NEXT.values()}
        assert os.listdir(store.layout.ingests) == []
        assert os.listdir(store.layout.quarantine) == []
        assert [s.commit for s in store.snapshots()] == [OTHER]
    finally:
        store.close()
