"""Copies of small files that the daemon hands over: what is refused, what is left behind."""

import os
import socket
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from corpora.hostile_names import HOSTILE_NAMES
from zhcache.errors import DaemonUnreachable, IntegrityError, NoSpace, NotPermitted, ZhcacheError
from zhcache.pipeline import closed
from zhcache.pipeline.closed import Readable
from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import (
    MAX_SMALL_BYTES,
    MAX_SMALL_FILE,
    MAX_SMALL_FILES,
    Failed,
    FilesRequest,
    SmallFile,
    SmallFiles,
)

INDEX = b'{"_class_name": "X", "unet": ["diffusers", "U"]}'


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    """Where copies lie. The snapshot's folder is closed, which nothing is to root."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(closed, "is_closed", lambda _: True)
    return folder


@pytest.fixture
def front(tmp_path):
    """Returns a function: what the daemon does with the connection; it gives the copies."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "handover.sock"))
    listener.listen()
    threads = []
    lease = SimpleNamespace(path=tmp_path / "store" / "snap", granted=SimpleNamespace(id="l1"))

    def read(answer) -> Readable:
        def run() -> None:
            line, _ = listener.accept()
            with line:
                request, _ = frames.receive(line, FilesRequest)
                assert request == FilesRequest(lease="l1")
                answer(line)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return Readable(tmp_path / "api.sock", lease)

    yield read
    listener.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def send(line, files, weights=(), *, is_last=True, size=None) -> None:
    """Hands files over, as names and contents."""
    fds = []
    for _, content in files:
        fds.append(os.memfd_create("file"))
        os.write(fds[-1], content)
    told = [
        SmallFile(path=path, size=len(content) if size is None else size) for path, content in files
    ]
    frames.send(line, SmallFiles(files=told, weights=list(weights), is_last=is_last), fds)
    frames.close_all(fds)


def test_copies_are_there_until_the_end_of_the_block(front, base):
    weights = ["unet/diffusion_pytorch_model.safetensors"]

    def answer(line):
        send(line, [("model_index.json", INDEX)], is_last=False)
        send(line, [("unet/config.json", b"{}"), ("unet/deep/er.txt", b"")], weights)

    with front(answer) as there:
        assert there.folder.parent == base
        assert there.folder.stat().st_mode & 0o777 == 0o700
        assert (there.folder / "model_index.json").read_bytes() == INDEX
        assert (there.folder / "unet/deep/er.txt").read_bytes() == b""
        assert there.weights == weights
        assert there.gaps() == []
    assert list(base.iterdir()) == []


def test_shard_that_neither_came_nor_is_in_the_store_is_missing(front, base):
    def answer(line):
        table = b'{"weight_map": {"a": "d-1.safetensors", "b": "d-2.safetensors"}}'
        files = [("model_index.json", INDEX), ("unet/config.json", b"{}")]
        send(line, [*files, ("unet/d.safetensors.index.json", table)], ["unet/d-1.safetensors"])

    with front(answer) as there:
        assert there.gaps() == ["unet/d-2.safetensors"]


# Half a character cannot be sent: what comes is UTF-8.
SENDABLE = {kind: name for kind, name in HOSTILE_NAMES.items() if kind != "lone_surrogate"}


@pytest.mark.parametrize("name", SENDABLE.values(), ids=SENDABLE)
def test_name_that_cannot_be_meant_is_refused_and_nothing_is_left(front, base, name):
    with pytest.raises(IntegrityError):
        front(lambda line: send(line, [("model_index.json", INDEX), (name, b"evil")]))
    assert list(base.iterdir()) == []
    assert not (base / "x").exists()


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "a/b"], ["a/b", "a"]], ids=["twice", "file_first", "folder_first"]
)
def test_names_that_exclude_each_other_are_refused(front, base, names):
    with pytest.raises(IntegrityError, match="twice"):
        front(lambda line: send(line, [(name, b"1") for name in names]))
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("size", [3, 5])
def test_file_of_another_size_than_was_told_is_refused(front, base, size):
    with pytest.raises(IntegrityError, match=f"not its {size} bytes"):
        front(lambda line: send(line, [("a.json", b"four")], size=size))
    assert list(base.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (1, MAX_SMALL_FILE + 1),
        (1, -1),
        (MAX_SMALL_BYTES // MAX_SMALL_FILE + 1, MAX_SMALL_FILE),
        (MAX_SMALL_FILES + 1, 0),
    ],
    ids=["large", "negative", "large_in_all", "many"],
)
def test_more_than_was_agreed_on_is_refused(front, base, count, size):
    def answer(line):
        left = count
        while left:
            now = min(left, frames.MAX_FDS)
            left -= now
            files = [(f"{left}-{number}", b"") for number in range(now)]
            try:
                send(line, files, is_last=not left, size=size)
            except OSError:
                return

    with pytest.raises(IntegrityError, match="not what it may"):
        front(answer)
    assert list(base.iterdir()) == []


def test_fewer_descriptors_than_files_are_refused(front, base):
    def answer(line):
        frames.send(line, SmallFiles(files=[SmallFile(path="a", size=1)]))

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IntegrityError):
        front(answer)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_what_is_no_file_is_not_read(front, base):
    ours, theirs = os.pipe()
    files = [SmallFile(path="a", size=4)]
    with pytest.raises(ZhcacheError, match="cannot be copied"):
        front(lambda line: frames.send(line, SmallFiles(files=files), [ours]))
    frames.close_all([ours, theirs])
    assert list(base.iterdir()) == []


def test_refusal_is_raised_as_what_it_is(front, base):
    refusal = NotPermitted("lease {id} belongs to another user", id="l1")
    with pytest.raises(NotPermitted, match="lease l1"):
        front(lambda line: frames.send(line, Failed(error=to_info(refusal))))
    assert list(base.iterdir()) == []


def test_daemon_that_goes_away_is_unreachable(front, base):
    with pytest.raises(DaemonUnreachable):
        front(lambda line: send(line, [("a", b"1")], is_last=False))
    assert list(base.iterdir()) == []


@pytest.mark.skipif("os.geteuid() != 0", reason="mounting a small file system needs root")
def test_full_disk_is_told(front, base):
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(base)]
    if subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with pytest.raises(NoSpace, match="a cannot be copied"):
            front(lambda line: send(line, [("a", b"1" * 2**17)]))
        assert list(base.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(base)], check=True)


def test_errors_name_the_snapshot_and_not_the_copies(front, base, tmp_path):
    shown = str(tmp_path / "store" / "snap")
    with (
        pytest.raises(ZhcacheError) as raised,
        front(lambda line: send(line, [("a", b"1")])) as there,
    ):
        raise IntegrityError("{where} is bad", hint="look at {where}", where=there.folder / "vae")
    assert str(raised.value) == f"{shown}/vae is bad (look at {shown}/vae)"
    assert raised.value.args == (f"{shown}/vae is bad",)


def test_forked_child_leaves_its_parents_copies(front, base):
    with front(lambda line: send(line, [("a", b"1")])) as there:
        pid = os.fork()
        if pid == 0:
            there.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert (there.folder / "a").exists()


def test_runtime_folder_that_is_not_ones_own_is_not_used(front, base, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    if os.geteuid() == 0:
        os.chown(foreign, 4321, 4321)
    else:
        foreign.chmod(0o500)
    for named in ("", str(tmp_path / "nowhere"), str(foreign)):
        monkeypatch.setenv("XDG_RUNTIME_DIR", named)
        with front(lambda line: send(line, [("a", b"1")])) as there:
            assert there.folder.parent == tmp_path
