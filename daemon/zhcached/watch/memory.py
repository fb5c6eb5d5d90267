"""What was taken of a watched folder, so that after a restart nothing of it is hashed again.

One file for each watched folder, beside the store's own. Losing it costs a reading, no more.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from zhcached.store import files
from zhcached.store.blobs import Identity
from zhcached.watch.recognise import Model


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One file as it was when it was taken; the sha256 is empty if it was left out."""

    identity: Identity
    sha256: str


class Taken(msgspec.Struct, frozen=True):
    """One model as it was when it was taken.

    Attributes:
        repo: Its name.
        source: Its commit where its layout knows one.
        revision: The ref that pointed at it in its layout.
        commit: Its snapshot.
        ref: The ref that was moved; None if that is somebody else's.
        files: By path in the repository.
    """

    repo: str
    source: str | None
    revision: str | None
    commit: str
    ref: str | None
    files: dict[str, Kept]


class _File(msgspec.Struct):
    folder: str
    taken: dict[str, Taken]


class Memory:
    """What was taken of one watched folder. Thread-safe.

    Args:
        place: The folder of all memories.
        folder: The watched folder.
    """

    def __init__(self, place: Path, folder: Path) -> None:
        self._folder = str(folder)
        name = hashlib.sha256(self._folder.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._path = place / f"{name}.json"
        self._lock = threading.Lock()
        self._taken = self._read()

    def _read(self) -> dict[str, Taken]:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}
        return kept.taken if kept.folder == self._folder else {}

    def of(self, where: str) -> Taken | None:
        """Returns what was taken from that place in the folder."""
        return self._taken.get(where)

    def keep(self, where: str, taken: Taken) -> None:
        """Remembers, durably.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with self._lock:
            self._taken[where] = taken
            self._write()

    def forget(self, sha256: str) -> None:
        """Forgets what has those bytes, so that it is taken in again: the store lost them."""
        with self._lock:
            doubted = [
                where
                for where, taken in self._taken.items()
                if any(kept.sha256 == sha256 for kept in taken.files.values())
            ]
            for where in doubted:
                del self._taken[where]
            if doubted:
                self._write()

    def drop(self) -> None:
        """Forgets all: the folder is watched no more."""
        with self._lock:
            self._taken.clear()
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._path.parent.mkdir(mode=0o750, exist_ok=True)
        content = msgspec.json.encode(_File(self._folder, self._taken))
        files.write_durably(self._path, content)


def is_same_content(one: Identity, other: Identity) -> bool:
    """Tells whether two looks at an inode differ in no more than its links and rights."""
    return (one.size, one.inode, one.mtime_ns) == (other.size, other.inode, other.mtime_ns)


def compare(model: Model, taken: Taken | None) -> bool | None:
    """Tells whether a model is as it was when it was taken: None if it is but for links and rights.

    A snapshot that is removed from the store unlinks what was hard-linked, which the original's
    inode shows.
    """
    if taken is None or (str(model.repo), model.commit, model.revision) != (
        taken.repo,
        taken.source,
        taken.revision,
    ):
        return False
    if model.files.keys() != taken.files.keys():
        return False
    return _compare({p: held.identity for p, held in model.files.items()}, taken.files)


def _compare(now: Mapping[str, Identity], then: Mapping[str, Kept]) -> bool | None:
    if all(then[path].identity == identity for path, identity in now.items()):
        return True
    is_same = all(is_same_content(then[path].identity, one) for path, one in now.items())
    return None if is_same else False
