"""A disk that fills up under an ingest and under the index, and room that comes back."""

import os
import resource
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.storekit import (
    COMMIT,
    HALF,
    REPO,
    TINY,
    open_store,
    promise_of,
    publish_tiny,
    publish_variant,
    put,
    sha256,
    variant_of,
)
from zhcache.errors import NoSpace
from zhcached.store import kept

pytestmark = pytest.mark.crash
MIB = 1 << 20


@pytest.fixture
def small_disk():
    """Mounts a tmpfs of 8 MiB; its space can be filled by others."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    with tempfile.TemporaryDirectory(prefix="zhcache-full-") as folder:
        mounting = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
        if subprocess.run(mounting, check=False, capture_output=True).returncode:
            pytest.skip("no tmpfs can be mounted here")
        yield Path(folder)
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk, *, leave=0):
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as file:
        file.write(b"\1" * max(0, free - leave))
    return ballast


def test_ingest_on_a_disk_that_others_fill_says_no_space_and_resumes_after(small_disk):
    store = open_store(small_disk / "store")
    content = os.urandom(2 * MIB)
    ingest = store.intake.begin(promise_of(content), "job")
    ingest.write(0, content[:MIB], "hub")
    ingest.sync()
    ballast = fill(small_disk)
    with pytest.raises(NoSpace) as raised:
        ingest.write(MIB, content[MIB:], "hub")
    assert raised.value.exit_code == 6
    ingest.close()
    ballast.unlink()
    again = store.intake.begin(promise_of(content), "job")
    assert again.missing().pairs() == [(MIB, 2 * MIB)]
    again.write(MIB, content[MIB:], "hub")
    assert again.commit().sha256 == sha256(content)
    store.close()


def test_disk_that_fills_up_while_a_variant_is_made_shows_nothing_of_it(small_disk):
    store = open_store(small_disk / "store")
    publish_tiny(store)
    content = os.urandom(2 * MIB)
    with store.intake.draft(len(content), "convert") as draft:
        draft.write(content[:MIB])
        ballast = fill(small_disk)
        with pytest.raises(NoSpace) as raised:
            draft.write(content[MIB:])
        assert raised.value.exit_code == 6
        assert store.variants(REPO, COMMIT) == {}
    ballast.unlink()
    for own in HALF.values():
        store.intake.put(own, "convert")
    ballast = fill(small_disk)
    with pytest.raises(NoSpace):
        store.publish(variant_of(left_out={"p" * 200: "r" * 300_000}), None)
    assert [snapshot.variants for snapshot in store.snapshots()] == [{}]
    assert os.listdir(store.layout.ingests) == []
    ballast.unlink()
    publish_variant(store, {**HALF, "unet/model.safetensors": content})
    assert store.variant(REPO, COMMIT, "fp16").bytes > 2 * MIB
    assert store.checks.verify().missing == []
    store.close()


def test_download_that_cannot_fit_is_refused_before_a_byte_is_written(small_disk):
    store = open_store(small_disk / "store")
    with pytest.raises(NoSpace, match="needed"):
        store.intake.begin(promise_of(b"\0" * (9 * MIB)), "job")
    assert store.space_report().bytes_partial == 0
    store.close()


def test_full_disk_under_publish_and_index_leaves_what_was_there_and_gc_frees_it(small_disk):
    store = open_store(small_disk / "store")
    folder = publish_tiny(store)
    put(store, b"new file")
    ballast = fill(small_disk)
    with pytest.raises(NoSpace):
        for number in range(500):
            kept.save_job(store.catalog, str(number), "k", "x", "done", 0, 0.0, 0.0, b"r" * 10_000)
    with pytest.raises(NoSpace):
        publish_tiny(store, ref="more", left_out={"p" * 200: "r" * 300_000})
    assert {k: (folder / k).read_bytes() for k in TINY} == TINY
    assert store.resolve(REPO, "main").files
    ballast.unlink()
    store.close()
    store = open_store(small_disk / "store")
    assert store.problems == []
    assert [s.revisions for s in store.snapshots()] == [["main"]]
    publish_tiny(store, ref="more")
    store.remove(REPO, None)
    assert store.gc().bytes_freed == sum(len(c) for c in TINY.values())
    store.close()


def test_write_over_the_file_size_limit_is_no_space(tmp_path):
    store = open_store(tmp_path / "store")
    store.intake._fallocate = False
    content = b"z" * 300_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ingest = store.intake.begin(promise_of(content), "job")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        with pytest.raises(NoSpace):
            ingest.write(0, content, "hub")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ingest.write(0, content, "hub")
    assert ingest.commit().sha256 == sha256(content)
    store.close()
