"""What a hub says, checked before anything believes it.

Every JSON document and every file entry of every hub passes through here. Limits are named in
one place. Nothing here does I/O.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from zhcache.errors import IntegrityError
from zhcache.protocol.names import RepoPath, check_listing, is_sha256, parse_path, printable
from zhcached.errors import RemoteInvalid
from zhcached.sources.base import RemoteFile

MAX_PAGE_BYTES = 16 * 2**20
MAX_FILES = 10_000
MAX_PAGES = 1_000
MAX_FILE_BYTES = 2**40
"""No hub holds a file of over a tebibyte; a size above it is an attack on the disk or a mistake."""

_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
T = TypeVar("T")


def decode(body: bytes, shape: type[T], *, source: str, what: str) -> T:
    """Returns ``body`` as ``shape``; unknown fields are ignored, depth is bounded by the decoder.

    Raises:
        RemoteInvalid: Not JSON, nested too deep, or of another shape.
    """
    if body.lstrip()[:1] == b"<":
        raise RemoteInvalid(
            f"a web page came instead of {what}: a login, a block page, or not a hub", source=source
        )
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteInvalid(f"{what} cannot be read: {error}", source=source) from error


class Listing:
    """The files of one repository as they are read, page by page.

    Args:
        source: Name of the source, for errors.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._files: dict[RepoPath, RemoteFile] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def add(self, path: str, size: int, *, sha256: str | None, git_sha1: str | None) -> None:
        """Takes in one file.

        Raises:
            RemoteInvalid: The name, the size or a digest cannot be right, the name stands twice,
                or there are more than ``MAX_FILES``.
        """
        try:
            name = parse_path(path)
        except IntegrityError as error:
            raise RemoteInvalid(error.message, source=self._source) from error
        if name in self._files:
            self._refuse(f"the listing names {printable(name)} twice")
        if len(self._files) >= MAX_FILES:
            self._refuse(f"the listing has more than {MAX_FILES} files")
        if not 0 <= size <= MAX_FILE_BYTES:
            self._refuse(f"the listing gives {printable(name)} a size of {size} bytes")
        if sha256 is not None and not is_sha256(sha256):
            self._refuse(f"the sha256 of {printable(name)} is malformed: {printable(sha256)}")
        if git_sha1 is not None and not _GIT_SHA1.fullmatch(git_sha1):
            self._refuse(f"the git digest of {printable(name)} is malformed: {printable(git_sha1)}")
        self._files[name] = RemoteFile(name, size, sha256, git_sha1)

    def finish(self) -> tuple[RemoteFile, ...]:
        """Returns the files sorted by path.

        Raises:
            RemoteInvalid: There is none, or a name is both a file and a folder.
        """
        if not self._files:
            self._refuse("the listing is empty")
        try:
            check_listing(self._files)
        except IntegrityError as error:
            raise RemoteInvalid(error.message, source=self._source) from error
        return tuple(self._files[path] for path in sorted(self._files))

    def _refuse(self, reason: str) -> None:
        raise RemoteInvalid(reason, source=self._source)
