r"""What bytes are promised to be, and what they turn out to be.

Hubs name large files by sha256 and git-stored ones by git's sha1 of ``blob <len>\0`` + bytes. A
blob's name is always the sha256; the sha1 is computed beside it only where it was promised.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable

import msgspec

from zhcache.protocol.names import is_sha256
from zhcached.errors import DigestMismatch

_SHA1 = re.compile(r"[0-9a-f]{40}")
READ_STEP = 1 << 20
Progress = Callable[[int], None]


class Promise(msgspec.Struct, frozen=True):
    """What a source says a file is.

    Args:
        size: Bytes.
        sha256: 64 lower-case hex digits.
        git_sha1: 40 lower-case hex digits, git's name of the content. At least one digest is
            there; with both, both must hold.

    Raises:
        ValueError: No digest, a malformed one, or a negative size.
    """

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("a size is not negative")
        if self.sha256 is None and self.git_sha1 is None:
            raise ValueError("a promise needs a digest")
        if self.sha256 is not None and not is_sha256(self.sha256):
            raise ValueError("not a sha256")
        if self.git_sha1 is not None and not _SHA1.fullmatch(self.git_sha1):
            raise ValueError("not a git sha1")

    @property
    def key(self) -> str:
        """The name of the ingest for these bytes: our own hex, safe as a file name."""
        return f"sha256-{self.sha256}" if self.sha256 else f"git-{self.git_sha1}-{self.size}"


class Committed(msgspec.Struct, frozen=True):
    """Bytes that are in the store. ``git_sha1`` is there only if it was computed.

    ``is_shared`` says that they lie on the disk once, with the file they were taken from.
    """

    sha256: str
    git_sha1: str | None
    size: int
    is_shared: bool = False


class ContentDigest:
    """Hashes bytes that come in order. Not thread-safe; large updates release the GIL.

    Args:
        size: The length of the whole, which git's sha1 needs before the first byte.
        want_git: Compute git's sha1 as well.
    """

    def __init__(self, size: int, *, want_git: bool) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if want_git else None

    def update(self, chunk: memoryview | bytes) -> None:
        """Takes the next bytes."""
        self._sha256.update(chunk)
        if self._git is not None:
            self._git.update(chunk)

    def sha256(self) -> str:
        """The sha256 so far, in hex."""
        return self._sha256.hexdigest()

    def git_sha1(self) -> str | None:
        """Git's sha1 in hex, or None if it was not wanted."""
        return self._git.hexdigest() if self._git is not None else None


def hash_file(fd: int, *, want_git: bool, progress: Progress | None = None) -> Committed:
    """Returns what the bytes of an open file hash to, read from its beginning.

    Args:
        fd: The file. What it grows by meanwhile is not read.
        want_git: Compute git's sha1 as well.
        progress: Called with the bytes of each step; what it raises ends the reading.
    """
    size = os.fstat(fd).st_size
    digest = ContentDigest(size, want_git=want_git)
    buffer = memoryview(bytearray(min(READ_STEP, max(size, 1))))
    at = 0
    while at < size and (got := os.preadv(fd, [buffer[: size - at]], at)):
        digest.update(buffer[:got])
        at += got
        if progress is not None:
            progress(got)
    return Committed(digest.sha256(), digest.git_sha1(), at)


def check(promise: Promise, found: Committed) -> None:
    """Compares what came with what was promised.

    Raises:
        DigestMismatch: A promised digest does not hold.
    """
    if promise.sha256 is not None and promise.sha256 != found.sha256:
        raise DigestMismatch(f"sha256:{promise.sha256}", f"sha256:{found.sha256}")
    if promise.git_sha1 is not None and promise.git_sha1 != found.git_sha1:
        raise DigestMismatch(f"git-sha1:{promise.git_sha1}", f"git-sha1:{found.git_sha1}")
    if promise.size != found.size:
        raise DigestMismatch(f"{promise.size} bytes", f"{found.size} bytes")


def lfs_pointer_sha1(sha256: str, size: int) -> str:
    """Returns git's sha1 of the LFS pointer file that stands for these bytes in the repository.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    digest = ContentDigest(len(pointer), want_git=True)
    digest.update(pointer.encode())
    return digest.git_sha1() or ""
