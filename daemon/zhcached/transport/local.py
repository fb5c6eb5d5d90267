"""Files of folders that the configuration names, answered as a server would answer.

A source of kind ``folder`` has no server; with this its bytes go the way all bytes go: in ranges,
beside those of other sources, and believed only once they hash to what was promised. No redirect
leads here: the scheme is one that no address may have.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from zhcached.errors import AddressRefused, TransportError
from zhcached.transport.address import Origin
from zhcached.transport.message import Head, Headers
from zhcached.transport.response import Response

ORIGIN: Final = Origin("file", "", 0)
_SCHEME: Final = "file://"
_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


def url_of(path: Path) -> str:
    """Returns how a file of a folder is named here."""
    return _SCHEME + quote(os.fsencode(path))


def is_local(url: str) -> bool:
    """Tells whether ``url`` names a file of a folder."""
    return url.startswith(_SCHEME)


class LocalFiles:
    """What lies below some folders, and nothing else.

    Args:
        roots: The folders. One that is not there yet may appear.
    """

    def __init__(self, roots: Iterable[Path] = ()) -> None:
        self._roots = tuple(roots)

    def open(self, url: str, headers: Mapping[str, str]) -> Response:
        """Returns the file, or the range of it that ``headers`` ask for.

        Raises:
            AddressRefused: It lies, links followed, in none of the folders.
            TransportError: It is gone, cannot be read, or is no plain file.
        """
        try:
            path = Path(os.fsdecode(unquote_to_bytes(url.removeprefix(_SCHEME)))).resolve()
            if not any(path.is_relative_to(root.resolve()) for root in self._roots):
                raise AddressRefused(f"{path} lies in no folder that is a source")
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TransportError(f"a file cannot be read: {error}") from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise TransportError(f"{path} is no plain file")
        return _answer(fd, found, headers, url)


class _FileBody:
    """The stretch ``start..end`` of an open file, as a body."""

    def __init__(self, fd: int, start: int, end: int) -> None:
        self._fd = fd
        self._at = start
        self._end = end

    @property
    def is_finished(self) -> bool:
        return self._at >= self._end

    def readinto(self, buffer: memoryview, _wait_s: float) -> int:
        """Reads into ``buffer``; 0 is the stretch's end.

        Raises:
            TransportError: The disk failed, or the file became shorter.
        """
        if self.is_finished:
            return 0
        try:
            count = os.preadv(self._fd, [buffer[: self._end - self._at]], self._at)
        except OSError as error:
            raise TransportError(f"a file cannot be read: {error}") from error
        if count == 0:
            raise TransportError("a file became shorter while it was read")
        self._at += count
        return count


def _answer(fd: int, found: os.stat_result, headers: Mapping[str, str], url: str) -> Response:
    asked = {name.lower(): value for name, value in headers.items()}.get("range", "")
    size = found.st_size
    told = {"etag": f'"{found.st_ino:x}-{size:x}-{found.st_mtime_ns:x}"', "accept-ranges": "bytes"}
    start, end, status = 0, size, 200
    if match := _RANGE.fullmatch(asked):
        start, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        status = 206 if start < end else 416
        told["content-range"] = f"bytes {f'{start}-{end - 1}' if start < end else '*'}/{size}"
    told["content-length"] = str(max(0, end - start))

    def release(*, reusable: bool) -> None:
        del reusable
        os.close(fd)

    return Response(
        Head(1, status, Headers(told.items())),
        _FileBody(fd, start, end),
        url=url,
        origin=ORIGIN,
        release=release,
        read_timeout_s=0.0,
    )
