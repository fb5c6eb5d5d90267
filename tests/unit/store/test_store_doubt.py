"""When the store takes a blob for damaged, and what a rebuild may not forget or disturb."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.storekit import COMMIT, REPO, TINY, open_store, promise_of, publish_tiny, sha256
from zhcache.errors import IntegrityError, ZhcacheError, from_wire
from zhcached.errors import StoreDamaged

WEIGHTS = TINY["unet/model.safetensors"]


def failing(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES])
def test_blob_that_cannot_be_opened_for_another_reason_stays_where_it_is(
    store, monkeypatch, number
):
    publish_tiny(store)
    monkeypatch.setattr(store.blobs, "open", failing(number))
    with pytest.raises(OSError) as raised:
        store.checks.recheck(sha256(WEIGHTS), lambda _: None)
    assert raised.value.errno == number
    monkeypatch.undo()
    assert store.blobs.has(sha256(WEIGHTS))
    assert store.resolve(REPO, None).commit == COMMIT


def test_blob_on_a_disk_gone_read_only_is_no_damage_and_says_so(store, monkeypatch):
    publish_tiny(store)
    monkeypatch.setattr(store.blobs, "open", failing(errno.EROFS))
    with pytest.raises(ZhcacheError, match="the disk under"):
        store.checks.recheck(sha256(WEIGHTS), lambda _: None)
    assert store.blobs.has(sha256(WEIGHTS))


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.EBADMSG])
def test_blob_that_the_disk_lost_goes_to_quarantine(store, monkeypatch, number):
    publish_tiny(store)
    monkeypatch.setattr(store.blobs, "open", failing(number))
    assert store.checks.recheck(sha256(WEIGHTS), lambda _: None) is False
    assert not store.blobs.has(sha256(WEIGHTS))


def test_link_in_a_blobs_place_goes_to_quarantine(store, tmp_path):
    publish_tiny(store)
    blob = store.blobs.path(sha256(WEIGHTS))
    blob.unlink()
    blob.symlink_to(tmp_path / "elsewhere")
    assert store.checks.recheck(sha256(WEIGHTS), lambda _: None) is False
    assert not os.path.lexists(blob)


@pytest.mark.parametrize("flagged", [False, True])
def test_rebuild_does_not_trust_a_blob_that_was_in_doubt(root, flagged):
    store = open_store(root)
    publish_tiny(store)
    blob = store.blobs.path(sha256(WEIGHTS))
    blob.chmod(0o640)
    with blob.open("r+b") as file:
        file.write(b"\xff")
    blob.chmod(0o440)
    if flagged:
        store.close()
        store = open_store(root)
    store.rebuild()
    store.close()
    store = open_store(root)
    with pytest.raises(IntegrityError):
        store.resolve(REPO, None)
    assert not store.blobs.has(sha256(WEIGHTS))
    store.close()


def test_rebuild_leaves_running_imports_and_newborn_ingests_alone(store, tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(WEIGHTS)
    folder = store.layout.ingest(promise_of(b"newborn").key)
    folder.mkdir()
    rebuilt = []

    def rebuild_meanwhile(_came):
        if not rebuilt:
            rebuilt.append(store.rebuild())

    fd = os.open(source, os.O_RDONLY)
    came = store.blobs.adopt_file(
        fd, None, size=len(WEIGHTS), link_ok=False, on_verified=rebuild_meanwhile
    )
    os.close(fd)
    assert rebuilt
    assert store.blobs.path(came.sha256).read_bytes() == WEIGHTS
    assert folder.is_dir()


def test_opening_drops_what_a_dead_process_left(root):
    store = open_store(root)
    (store.layout.ingests / "scrap-1-0").mkdir()
    (store.layout.ingests / "sha256-half").mkdir()
    store.close()
    store = open_store(root)
    assert os.listdir(store.layout.ingests) == []
    store.close()


def test_damage_read_from_the_wire_is_still_an_integrity_error():
    damage = StoreDamaged(reason="blob 00 vanished {here}")
    again = from_wire(damage.code, damage.template, damage.hint_template, damage.values)
    assert isinstance(again, IntegrityError)
    assert (again.message, again.hint) == (damage.message, "run `zhcache repair`")


def test_touched_blob_is_read_once_however_many_ask(store, monkeypatch):
    publish_tiny(store)
    name = sha256(WEIGHTS)
    os.utime(store.blobs.path(name), (1, 1))
    real, reads, may_read = store.blobs.hash, [], threading.Event()

    def slow(sha256, **options):
        reads.append(sha256)
        assert may_read.wait(30)
        return real(sha256, **options)

    monkeypatch.setattr(store.blobs, "hash", slow)
    with ThreadPoolExecutor(4) as askers:
        asked = [askers.submit(store.presence.is_sound, name, len(WEIGHTS)) for _ in range(4)]
        while store.presence._rereads._locks.get(name, (None, 0))[1] < 4:
            assert not any(one.done() for one in asked)
        may_read.set()
        assert [one.result(30) for one in asked] == [True] * 4
    assert reads == [name]
    assert not store.presence._rereads._locks
