"""Where everything lies under the store's root, and who may open it.

Owns the format mark, the lock that lets one daemon in, and the check of the file system. The
names made here are our own hex and quoted refs; none comes from the network as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from zhcache.errors import AlreadyRunning, NotPermitted, VersionMismatch
from zhcache.protocol.names import RepoId
from zhcached.store import files

FORMAT: Final = "zhcache-store 1\n"
# In ingest/: what no later run can use, so that it is deleted at the next start.
SCRAP: Final = "scrap-"
CACHEDIR_TAG: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This directory is a cache made by zhcache; backups may leave it out.\n"
)
# flock there is advisory between hosts at best, and SQLite's WAL needs one host's memory.
# Source: statfs(2), linux/magic.h; gpfs and lustre from their own headers.
_REMOTE: Final = {
    0x6969: "NFS",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x01021997: "9P",
}
# Where fallocate sets blocks aside at no cost: elsewhere glibc imitates it by writing zeros, and
# tmpfs zeroes every page at once.
_NATIVE_FALLOCATE: Final = {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010}


def filesystem_type(path: Path | int) -> int:
    """Returns ``f_type`` of the file system under a path or a descriptor.

    Source: statfs(2): ``f_type`` is the first word of ``struct statfs`` on every Linux.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)
    is_open = isinstance(path, int)
    if (libc.fstatfs(path, buffer) if is_open else libc.statfs(os.fsencode(path), buffer)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def remote_name(path: Path | int) -> str | None:
    """Returns what a file system that comes over a network or from a process is called."""
    return _REMOTE.get(filesystem_type(path))


def reserves_natively(path: Path) -> bool:
    """Tells whether the file system under ``path`` can set blocks aside for a file."""
    return filesystem_type(path) in _NATIVE_FALLOCATE


class StoreLock:
    """The right to be the store's one daemon; the kernel takes it back at death."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def holds(self, path: Path) -> bool:
        """Tells whether ``path`` is still the file that is locked, and not one put in its place."""
        try:
            return os.path.samestat(os.fstat(self._fd), path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Gives the right up. The file stays: unlinking it would let two daemons in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Layout:
    """Paths under one root.

    Args:
        root: Absolute path of the store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.ingests = root / "ingest"
        self.repos = root / "repos"
        self.hub = root / "hub"
        self.scope = root / "modelscope"
        self.quarantine = root / "quarantine"
        self.conversions = root / "convert"
        self.logs = root / "logs"
        self.index = root / "index.sqlite"

    def blob(self, sha256: str) -> Path:
        """Where the blob of that name lies."""
        return self.blobs / sha256[:2] / sha256

    def ingest(self, key: str) -> Path:
        """The folder of one unfinished blob."""
        return self.ingests / key

    def repo(self, repo: RepoId) -> Path:
        """The folder of one repository's records."""
        return self.repos / repo.folder

    def manifest(self, repo: RepoId, commit: str) -> Path:
        """The record of one snapshot."""
        return self.repo(repo) / "snapshots" / f"{commit}.json"

    def ref(self, repo: RepoId, ref: str) -> Path:
        """The record of one branch or tag. The file holds the ref's name; this is only a key."""
        quoted = quote(ref, safe="")
        if len(quoted) > 200:
            quoted = quoted[:100] + "~" + hashlib.sha256(ref.encode()).hexdigest()
        return self.repo(repo) / "refs" / f"{quoted}.json"

    def pinned(self, repo: RepoId) -> Path:
        """The mark of a pinned repository."""
        return self.repo(repo) / "pinned"

    def check(
        self, *, force: bool = False, fs_type: Callable[[Path], int] = filesystem_type
    ) -> None:
        """Refuses a root that this daemon must not touch; changes nothing on disk.

        Raises:
            NotPermitted: On a network or user-space file system, and not forced.
            VersionMismatch: The store was written by a version that this one does not know.
        """
        place = self.root
        while not place.exists():
            place = place.parent
        name = _REMOTE.get(fs_type(place))
        if name and not force:
            raise NotPermitted(
                "the store {root} lies on {name}, where locks and the index are not safe",
                hint="put ZHCACHE_HOME on a local disk, or set store.force = true at your own risk",
                root=self.root,
                name=name,
            )
        with contextlib.suppress(FileNotFoundError):
            found = (self.root / "format").read_text("utf-8", errors="replace")
            if found != FORMAT:
                raise VersionMismatch(
                    "the store {root} has format {found}, this zhcache knows {known}",
                    hint="use the zhcache that wrote it, or another ZHCACHE_HOME",
                    root=self.root,
                    found=repr(found.strip()[:40]),
                    known=repr(FORMAT.strip()),
                )

    def lies_on_network(self) -> bool:
        """Tells whether its files come over a network or from another process."""
        return remote_name(self.root) is not None

    def create(self) -> None:
        """Makes what is not there yet. The format mark comes last: with it, all is there.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with files.disk_errors(self.root):
            self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
            for folder in (self.blobs, self.repos, self.hub, self.scope, self.logs):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            for folder in (self.ingests, self.quarantine, self.conversions):
                folder.mkdir(mode=0o700, exist_ok=True)
            # All at once, so that no commit has a folder to make durable; a backup that leaves
            # out empty folders is put right here too.
            here = {path.name for path in self.blobs.iterdir()}
            for prefix in (f"{number:02x}" for number in range(256)):
                if prefix not in here:
                    (self.blobs / prefix).mkdir(mode=0o750)
            if len(here) < 256:
                files.sync_dir(self.blobs)
                files.sync_dir(self.blobs.parent)
            if (self.root / "format").exists():
                return
        for folder in (self.root, self.hub):
            files.write_durably(folder / "CACHEDIR.TAG", CACHEDIR_TAG.encode(), 0o644)
        files.write_durably(self.root / "format", FORMAT.encode(), 0o644)

    def take_lock(self) -> StoreLock:
        """Takes the right to be the one daemon of this store.

        Raises:
            AlreadyRunning: Another process has it; the message names its pid.
        """
        self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self.root / "lock"
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = re.sub(r"[^0-9]", "", os.pread(fd, 20, 0).decode("ascii", "replace"))
                os.close(fd)
                raise AlreadyRunning(
                    "another daemon, process {pid}, has the store {root}",
                    hint="`zhcache daemon status` shows it; `zhcache daemon stop` ends it",
                    pid=holder or "unknown",
                    root=self.root,
                ) from None
            if _same_file(fd, path):
                break
            os.close(fd)  # someone unlinked it between our open and our flock
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return StoreLock(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
