"""What goes wrong around a watched folder: lost notices, none at all, and those who mean harm."""

import ctypes
import errno
import os
from pathlib import Path

import pytest
from watchdog.observers import inotify_c

from harness.daemon import until
from harness.watchkit import hub_cache, lay, overflow, pipeline, watching
from zhcache.errors import NotPermitted, UsageError
from zhcache.protocol.names import MAX_DEPTH, parse_repo
from zhcached.watch import beneath, tree
from zhcached.watch.incoming import FromFolder
from zhcached.watch.notices import DROPPED_IN, Notices
from zhcached.watch.recognise import recognise

A = "a" * 40


def test_lost_notices_are_made_good_by_looking(tmp_path, folder, monkeypatch):
    with watching(tmp_path / "store", folder) as watched:
        until(lambda: watched.folder().state == "watched", "it is watched")
        monkeypatch.setattr("zhcached.watch.notices._Place.on_event", lambda *_: None)
        lay(folder / "tiny", pipeline())
        assert watched.models() == {}
        overflow(watched)
        watched.wait("tiny", "taken")


def test_real_overflow_of_the_kernels_queue_is_told(tmp_path, monkeypatch):
    told = []
    notices = Notices()
    group = notices.group(DROPPED_IN, lambda *_: None, lambda: told.append(1))
    lock = group._fd._lock
    for number in range(50):
        (tmp_path / f"d{number}").mkdir()
    group.follow([str(tmp_path), *(str(path) for path in tmp_path.iterdir())])
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with lock:  # the reader cannot go on meanwhile
        for number in range(limit // 2 + 600):
            (tmp_path / f"{number}").touch()
    until(lambda: told, "the loss is told")
    notices.close()
    assert len(told) < 4


def test_folder_on_a_network_disk_is_looked_at_again_and_again(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("zhcached.watch.looking.remote_name", lambda _: "NFS")
    with watching(tmp_path / "store", folder) as watched:
        until(lambda: watched.folder().state == "watched", "it is watched")
        lay(folder / "tiny", pipeline())
        watched.wait("tiny", "taken")
        assert watched.folder().mode == "polling"
        assert "NFS" in watched.folder().polling.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_kernel_without_watches_is_told_and_the_folder_polled(
    tmp_path, folder, monkeypatch, number
):
    # The limit is the whole machine's, so that its answer is put in the kernel's place.
    real = inotify_c.inotify_add_watch
    init = inotify_c.inotify_init

    def full(fd, path, mask):
        if str(folder).encode() in path:
            ctypes.set_errno(number)
            return -1
        return real(fd, path, mask)

    def none():
        ctypes.set_errno(number)
        return -1

    if number == errno.ENOSPC:
        monkeypatch.setattr(inotify_c, "inotify_add_watch", full)
    else:
        monkeypatch.setattr(inotify_c, "inotify_init", none)
    with watching(tmp_path / "store", folder) as watched:
        lay(folder / "tiny", pipeline())
        watched.wait("tiny", "taken")
        asked = "max_user_watches" if number == errno.ENOSPC else "max_user_instances"
        assert asked in watched.folder().polling.hint
        monkeypatch.setattr(inotify_c, "inotify_init", init)


def test_links_that_lead_out_are_not_followed(tmp_path, folder):
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(pipeline()["unet/diffusion_pytorch_model.safetensors"])
    lay(folder / "tiny", pipeline())
    weights = folder / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.symlink_to(secret)
    lay(tmp_path / "vae", {"config.json": b"{}"})
    (folder / "tiny" / "more").symlink_to(tmp_path / "vae")
    top = hub_cache(folder, "org/hub", pipeline(), A)
    (top / "snapshots" / A / "README.md").symlink_to("../../../../../secret.safetensors")
    (top / "snapshots" / A / "round").symlink_to("round")
    with watching(tmp_path / "store", folder) as watched:
        model = watched.wait("tiny", "waiting")
        assert "unet/*.safetensors" in model.reason.message
        assert model.skipped == 2
        taken = watched.wait(f"models--org--hub/snapshots/{A}", "taken")
        assert taken.skipped == 2
        paths = {file.path for file in watched.store.resolve(parse_repo("org/hub"), None).files}
        assert paths == set(pipeline())


def test_link_put_in_a_files_place_after_the_look_is_not_followed(tmp_path):
    lay(tmp_path / "in", {"a/file": b"x"})
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_bytes(b"s")
    os.mkfifo(tmp_path / "in" / "pipe")
    root = beneath.open_root(tmp_path / "in")
    assert beneath.read_file(root, "a/file", 9) == b"x"
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "b")
    (tmp_path / "in" / "a").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "c").symlink_to(tmp_path / "secret" / "file")
    for path in ("a/file", "c", "pipe", "../secret/file"):
        with pytest.raises((OSError, UsageError)):
            beneath.open_file(root, path)
    os.close(root)


def test_file_that_changes_after_the_look_is_not_taken(folder):
    lay(folder / "tiny", {"config.json": b"{}", "model.safetensors": _weights()})
    (model,) = recognise(tree.look_at(folder), folder, lambda _: b"").models
    incoming = FromFolder(folder, model, {})
    for _ in incoming.take(2):
        pass
    assert incoming.after.keys() == model.files.keys()
    incoming = FromFolder(folder, model, {})
    with pytest.raises(UsageError, match="changed while it was read"):
        for _ in incoming.take(2):
            (folder / "tiny" / "config.json").write_bytes(b"[]")
    assert incoming.after == {}
    with pytest.raises(UsageError, match="changed while it was read"):
        next(FromFolder(folder, model, {}).take(2))


def test_hostile_tree_is_taken_as_far_as_it_is_a_model(tmp_path, folder):
    lay(folder / "tiny", pipeline())
    os.mkfifo(folder / "tiny" / "pipe")
    os.mkfifo(folder / "tiny" / "vae" / "x.safetensors")
    (folder / "tiny" / "loop").symlink_to("loop")
    for name in (b"line\nbreak", b"back\\slash", b"\xff\xfe", "\u202egnp.exe".encode()):
        with open(os.fsencode(folder / "tiny") + b"/" + name, "wb"):
            pass
    deep = folder / "tiny"
    for _ in range(34):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    lay(folder / "no model's name!", pipeline())
    os.mkdir(os.fsencode(folder) + b"/\xff\xfe")
    lay(folder / "twice", pipeline())
    for name in ("caf\u00e9.txt", "cafe\u0301.txt"):
        (folder / "twice" / name).touch()
    with watching(tmp_path / "store", folder) as watched:
        model = watched.wait("tiny", "taken")
        assert model.skipped == 8
        assert max(path.count("/") for path in tree.look_at(folder).folders) == MAX_DEPTH - 1
        assert "rename it" in watched.wait("no model's name!", "refused").reason.hint
        assert "twice" in watched.wait("twice", "refused").reason.message


@pytest.mark.parametrize("bound", ["MAX_ENTRIES", "MAX_FOLDERS"])
def test_more_than_is_looked_at_is_said_and_nothing_taken(tmp_path, folder, monkeypatch, bound):
    monkeypatch.setattr(tree, bound, 9)
    for number in range(10):
        lay(folder / str(number), {"x": b""})
    with watching(tmp_path / "store", folder) as watched:
        until(lambda: watched.folder().state == "too_much", "the bound is met")
        assert "more than 9" in watched.folder().reason.message
        for number in range(10):
            (folder / str(number) / "x").unlink()
            (folder / str(number)).rmdir()
        lay(folder / "tiny", {"config.json": b"{}", "model.safetensors": _weights()})
        watched.wait("tiny", "taken")


def _weights():
    return pipeline()["unet/diffusion_pytorch_model.safetensors"]


def test_folder_that_cannot_be_read_is_told(tmp_path, folder, monkeypatch):
    real = os.open

    def closed(path, *args, **kwargs):
        if path == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    with watching(tmp_path / "store", folder) as watched:
        until(lambda: watched.folder().state == "watched", "it is watched")
        monkeypatch.setattr("zhcached.watch.beneath.os.open", closed)
        with pytest.raises(NotPermitted, match=f"uid {os.geteuid()}"):
            watched.add(folder)
        (folder / "x").touch()
        until(lambda: watched.folder().state == "unreadable", "it is told")
        monkeypatch.undo()
        lay(folder / "tiny", pipeline())
        watched.wait("tiny", "taken")


def test_disk_that_is_full_is_tried_again(tmp_path, folder, monkeypatch):
    from zhcache.errors import NoSpace

    def full(*_args, **_kwargs):
        raise NoSpace("no room left on the disk under {where}", where="x")

    lay(folder / "tiny", pipeline())
    with watching(tmp_path / "store") as watched:
        monkeypatch.setattr(watched.store.intake, "adopt", full)
        watched.add(folder)
        assert watched.wait("tiny", "failed").reason.code == "no_space"
        monkeypatch.undo()
        watched.wait("tiny", "taken")
