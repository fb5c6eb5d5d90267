"""What a disk holds after writes that went well, broke off, or had no room."""

import os
import shutil

import pytest

from harness.storekit import COMMIT, REPO, TINY, open_store, publish, publish_tiny
from zhcache import disk
from zhcache.errors import IntegrityError, NoSpace, UsageError


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def held(store):
    folder = publish_tiny(store)
    return folder, store.detail(REPO, None)


def content_of(place):
    return {name: (place / name).read_bytes() for name in TINY}


def left_over(folder):
    return list(folder.rglob("*.part"))


def test_disk_has_plain_files_and_says_what_they_are(held, tmp_path):
    done = disk.write(*held, tmp_path / "disk")
    assert done.path == tmp_path / "disk" / "models" / str(REPO) / COMMIT
    assert content_of(done.path) == TINY
    assert not any(path.is_symlink() for path in done.path.rglob("*"))
    [locked] = disk.read_lock(tmp_path / "disk")
    assert (locked.repo, locked.commit, locked.revision) == (str(REPO), COMMIT, "main")
    assert disk.missing(tmp_path / "disk", locked) is None


def test_write_that_broke_off_goes_on_and_copies_nothing_twice(held, tmp_path):
    copied = []

    def break_off(step):
        copied.append(step)
        if sum(copied) > 76_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.write(*held, tmp_path / "disk", progress=break_off)
    assert disk.read_lock(tmp_path / "disk") == []
    assert left_over(tmp_path) == []
    kept = {path: path.stat().st_ino for path in (tmp_path / "disk").rglob("*") if path.is_file()}
    assert kept
    disk.write(*held, tmp_path / "disk")
    assert content_of(disk.folder_of(tmp_path / "disk", str(REPO), COMMIT)) == TINY
    assert {path: path.stat().st_ino for path in kept} == kept


def test_file_that_a_bad_disk_altered_is_written_anew(held, tmp_path):
    done = disk.write(*held, tmp_path / "disk")
    victim = done.path / "unet/model.safetensors"
    victim.write_bytes(bytes(victim.stat().st_size))
    disk.write(*held, tmp_path / "disk")
    assert content_of(done.path) == TINY


def test_link_in_the_place_of_a_file_is_replaced_and_not_written_through(held, tmp_path):
    done = disk.write(*held, tmp_path / "disk")
    victim, elsewhere = done.path / "unet/config.json", tmp_path / "mine"
    elsewhere.write_bytes(b"mine")
    victim.unlink()
    victim.symlink_to(elsewhere)
    disk.write(*held, tmp_path / "disk")
    assert (content_of(done.path), elsewhere.read_bytes()) == (TINY, b"mine")
    assert not victim.is_symlink()


def test_damaged_blob_gets_no_name_on_the_disk(store, held, tmp_path):
    blob = (held[0] / "unet/model.safetensors").resolve()
    size = blob.stat().st_size
    blob.chmod(0o640)
    blob.write_bytes(bytes(size))
    with pytest.raises(IntegrityError, match=r"unet/model\.safetensors"):
        disk.write(*held, tmp_path / "disk")
    assert not list(tmp_path.glob("disk/**/model.safetensors"))
    assert (left_over(tmp_path), disk.read_lock(tmp_path / "disk")) == ([], [])


def test_disk_without_room_is_told_before_anything_is_written(held, tmp_path, monkeypatch):
    full = shutil._ntuple_diskusage(10**9, 10**9 - 10, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(NoSpace, match="10 bytes free"):
        disk.write(*held, tmp_path / "disk")
    assert not list((tmp_path / "disk").iterdir())


def test_disk_of_a_file_system_that_ends_at_4_gib_is_named(held, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(27, os.strerror(27))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UsageError, match="no files as large"):
        disk.write(*held, tmp_path / "disk")


def test_newer_commit_takes_the_branch_and_the_older_stays_under_its_own_name(
    store, held, tmp_path
):
    disk.write(*held, tmp_path / "disk")
    newer = "ab" * 20
    folder = publish(store, {"a.txt": b"newer"}, commit=newer)
    disk.write(folder, store.detail(REPO, None), tmp_path / "disk")
    found = {one.commit: one.revision for one in disk.read_lock(tmp_path / "disk")}
    assert found == {COMMIT: COMMIT, newer: "main"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"repos": [{"repo": "../x", "revision": "main", "commit": "c", "files": []}]}',
        b'{"repos": [{"repo": "a/b", "revision": "main", "commit": "../..", "files": []}]}',
        b'{"repos": [{"repo": "a/b", "revision": "main", "commit": "'
        + COMMIT.encode()
        + b'", "files": [{"path": "../../etc/passwd", "size": 1, "sha256": "'
        + b"0" * 64
        + b'"}]}]}',
    ],
)
def test_lock_that_is_none_or_leads_out_of_the_disk_is_refused(tmp_path, text):
    (tmp_path / disk.LOCK).write_bytes(text)
    with pytest.raises((UsageError, IntegrityError)):
        disk.read_lock(tmp_path)
