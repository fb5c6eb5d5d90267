"""What others do to the store's own files is noticed, judged and made good."""

import os

import pytest

from harness.daemon import until
from harness.storekit import TINY, publish_tiny, put, sha256
from harness.watchkit import lay, overflow, pipeline, watching
from zhcache.protocol.names import parse_repo

REPO = parse_repo("lab/tiny")
WEIGHTS = TINY["unet/model.safetensors"]


@pytest.fixture
def watched(tmp_path):
    with watching(tmp_path / "store") as started:
        publish_tiny(started.store)
        yield started


@pytest.fixture
def reads(watched, monkeypatch):
    """Counts the blobs that are read again."""
    done = []
    real = watched.store.checks.recheck

    def recheck(name, progress):
        verdict = real(name, progress)
        done.append((name, verdict))
        return verdict

    monkeypatch.setattr(watched.store.checks, "recheck", recheck)
    return done


def blob(watched, content=WEIGHTS):
    return watched.store.blobs.path(sha256(content))


def spoil(path):
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(99)
        file.write(b"tampered")


def come_to_rest(watched, reads):
    """Waits until the guard has seen all that was done before, by a mark of its own."""
    os.utime(blob(watched, TINY["unet/config.json"]))
    until(lambda: reads, "the mark is seen")
    reads.clear()


def test_blob_that_was_written_is_in_quarantine_at_once(watched):
    spoil(blob(watched))
    until(lambda: not blob(watched).exists(), "it is in quarantine")
    until(lambda: watched.store.problems, "it is told")
    assert sha256(WEIGHTS) in watched.store.problems[0]
    assert [path for _, _, path, _ in watched.store.checks.holes()] == ["unet/model.safetensors"]
    put(watched.store, WEIGHTS)
    assert watched.store.problems == []


def test_blob_that_is_gone_is_told_until_it_is_back(watched):
    blob(watched).unlink()
    (finding,) = until(watched.guard.findings, "it is told")
    assert "lab/tiny" in finding.message
    assert [path for _, _, path, _ in watched.store.checks.holes()] == ["unet/model.safetensors"]
    put(watched.store, WEIGHTS)
    assert watched.guard.findings() == []


def test_blob_that_was_only_touched_is_read_once_and_stays(watched, reads):
    os.utime(blob(watched))
    until(lambda: reads, "it is read")
    assert reads == [(sha256(WEIGHTS), True)]
    assert watched.store.resolve(REPO, None)


def test_what_the_store_does_itself_is_no_tampering(watched, reads):
    put(watched.store, b"new" * 1000)
    watched.store.remove(REPO, None)
    watched.store.gc()
    spoil(blob(watched, b"new" * 1000))  # behind all of the store's own in the queue
    mine = sha256(b"new" * 1000)
    until(lambda: (mine, False) in reads, "the tampering is seen")
    assert {name for name, _ in reads} == {mine}
    assert watched.guard.findings() == []


def test_blob_that_a_collection_is_taking_is_missed_by_nobody(watched, reads):
    put(watched.store, b"unused" * 1000)
    blob(watched, b"unused" * 1000).unlink()  # its row is still there, as in the midst of one
    os.utime(blob(watched))
    until(lambda: reads, "what came after it is seen")
    assert {name for name, _ in reads} == {sha256(WEIGHTS)}
    assert watched.guard.findings() == []


def test_stranger_among_the_blobs_is_read_and_goes(watched, reads):
    stray = watched.store.blobs.path("ab" * 32)
    stray.write_bytes(b"not what its name says")
    until(lambda: reads, "it is read")
    assert not stray.exists()
    assert reads == [("ab" * 32, False)]


def test_lost_notices_are_made_good_by_a_look_at_every_inode(watched, reads, monkeypatch):
    come_to_rest(watched, reads)
    monkeypatch.setattr("zhcached.watch.notices._Place.on_event", lambda *_: None)
    spoil(blob(watched))
    overflow(watched)
    until(lambda: not blob(watched).exists(), "it is in quarantine")


def test_write_through_a_hard_link_is_found_without_a_notice(watched, reads, tmp_path):
    watched.guard._sweep_s = 0.2
    os.link(blob(watched), tmp_path / "elsewhere")
    come_to_rest(watched, reads)  # and from then on it looks that often
    spoil(tmp_path / "elsewhere")
    until(lambda: not blob(watched).exists(), "it is in quarantine")


def test_altered_view_is_mended_and_told(watched):
    folder = watched.store.view.snapshot_dir(REPO, watched.store.resolve(REPO, None).commit)
    link = folder / "unet" / "model.safetensors"
    target = os.readlink(link)
    link.unlink()
    link.symlink_to("/etc/passwd")
    until(lambda: os.path.islink(link) and os.readlink(link) == target, "the link is mended")
    (finding,) = until(watched.guard.findings, "it is told")
    assert "lab/tiny" in finding.message
    ref = folder.parents[1] / "refs" / "main"
    ref.write_text("f" * 40)
    until(lambda: ref.read_text() != "f" * 40, "the ref is mended")


def test_what_the_store_lost_is_taken_in_again_from_a_watched_folder(watched, tmp_path):
    files = pipeline(50)
    lay(tmp_path / "in" / "tiny", files)
    watched.add(tmp_path / "in")
    watched.wait("tiny", "taken")
    lost = blob(watched, files["vae/diffusion_pytorch_model.safetensors"])
    lost.unlink()
    until(lost.exists, "it is taken in again")
    until(lambda: not watched.store.checks.holes(), "it is whole")
    assert watched.store.resolve(parse_repo("local/tiny"), None)


def test_view_that_was_altered_while_no_daemon_ran_is_mended(tmp_path):
    with watching(tmp_path / "store") as watched:
        folder = publish_tiny(watched.store)
    link = folder / "model_index.json"
    target = os.readlink(link)
    link.unlink()
    with watching(tmp_path / "store") as watched:
        overflow(watched)
        until(lambda: os.path.lexists(link), "the link is there again")
        assert os.readlink(link) == target
