"""What workers compiled, kept for the next worker of its kind.

``<store>/compile/<kind>/<key>``: the kind is ours, a hash of what the worker was to be; the key is
the worker's, a hash of libraries, GPU and shapes. Only the newest few of a kind are kept and all of
them within a size; ``prune`` removes those whose snapshot is gone. Artifacts are run as code by the
worker that gets them, so the folder is the daemon's alone, and a kind is never asked of a client:
one model's artifacts reach no worker of another. Thread-safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from zhcache.errors import UsageError
from zhcached.residency.resident import sealed
from zhcached.residency.resident.kinds import Kind
from zhcached.store import files

MAX_ONE = 2 * 2**30
"""Bytes of one worker's artifacts."""

MAX_ALL = 10 * 2**30
"""Bytes of all of them."""

MAX_OF_A_KIND = 4
"""Newest kept: a library that was upgraded makes new ones."""

_KEY = re.compile(r"[0-9a-f]{16,64}")
_CHUNK = 1 << 20


class _Source(msgspec.Struct):
    repo: str
    commit: str


class Artifacts:
    """The folder of compiled artifacts.

    Args:
        folder: Where they lie; made when the first comes.
        gpu_name: Returns a GPU's product name for its UUID: artifacts fit every GPU of one name.
        limit_bytes: Of all together.
    """

    def __init__(
        self,
        folder: Path,
        gpu_name: Callable[[str], str] = str,
        limit_bytes: int = MAX_ALL,
    ) -> None:
        self._folder = folder
        self._gpu_name = gpu_name
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()

    def open(self, kind: Kind) -> int | None:
        """Returns a descriptor of the newest artifacts of ``kind``, the caller's, or None."""
        with self._lock:
            for path in _newest_first(self._of(kind)):
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                os.utime(fd)
                return fd
        return None

    def keep(self, kind: Kind, key: str, fd: int) -> None:
        """Keeps what a worker compiled.

        Args:
            kind: What the worker was.
            key: The worker's name for it.
            fd: Sealed memory; stays the caller's.

        Raises:
            UsageError: The key is none, or the memory is not sealed or too large.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        if not _KEY.fullmatch(key):
            raise UsageError("{key} is no key of compiled artifacts", key=repr(key[:80]))
        size = sealed.size_of(fd, MAX_ONE)
        home = self._of(kind)
        with self._lock, files.disk_errors(home):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            home.mkdir(mode=0o700, exist_ok=True)
            source = msgspec.json.encode(_Source(kind.repo, kind.commit))
            files.write_durably(home / "source.json", source, 0o600)
            _copy(fd, size, home / key)
            for path in _newest_first(home)[MAX_OF_A_KIND:]:
                path.unlink(missing_ok=True)
            self._shrink(keep=home / key)

    def prune(self, is_held: Callable[[str, str], bool]) -> int:
        """Removes the artifacts of snapshots that are gone; returns how many kinds went.

        Args:
            is_held: Tells whether the store has a repository at a commit.
        """
        gone = 0
        with self._lock:
            for home in _folders(self._folder):
                try:
                    source = msgspec.json.decode((home / "source.json").read_bytes(), type=_Source)
                except (OSError, msgspec.MsgspecError):
                    source = None
                if source is None or not is_held(source.repo, source.commit):
                    shutil.rmtree(home, ignore_errors=True)
                    gone += 1
        return gone

    def bytes(self) -> int:
        """Returns what all artifacts take on the disk."""
        return sum(_size(path) for home in _folders(self._folder) for path in _newest_first(home))

    def _of(self, kind: Kind) -> Path:
        name = "cpu" if kind.device == "cpu" else self._gpu_name(kind.device)
        said = [kind.repo, kind.commit, kind.variant, kind.options.decode(), kind.attention, name]
        return self._folder / hashlib.sha256(msgspec.json.encode(said)).hexdigest()

    def _shrink(self, keep: Path) -> None:
        every = [path for home in _folders(self._folder) for path in _newest_first(home)]
        over = sum(_size(path) for path in every) - self._limit_bytes
        for path in sorted(every, key=_used):
            if over <= 0:
                return
            if path != keep:
                over -= _size(path)
                path.unlink(missing_ok=True)


def _copy(fd: int, size: int, path: Path) -> None:
    # The name comes last and the bytes are durable before it: half an artifact has no name.
    temporary = path.with_name(f".{path.name}.tmp")
    out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        for offset in range(0, size, _CHUNK):
            files.write_all(out, os.pread(fd, min(_CHUNK, size - offset), offset))
        os.fsync(out)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(out)
    files.sync_dir(path.parent)


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


def _newest_first(home: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        found = [path for path in home.iterdir() if _KEY.fullmatch(path.name)]
        return sorted(found, key=_used, reverse=True)
    return []


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
