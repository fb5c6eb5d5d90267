"""What an import is given: a request, then an open descriptor for each of its files.

From a client they come in over a socket, one batch at a time.

The sender waits in its own ``sendmsg`` until we take the next batch, so an import of ten thousand
files never holds more than one message's worth of open descriptors here.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator

from zhcache.errors import UsageError
from zhcache.protocol.messages import ImportRequest

MAX_DESCRIPTORS = 64
READ_TIMEOUT_S = 30.0


class Incoming(ABC):
    """What becomes a snapshot. ``folder`` is the watched folder it lies in, if it lies in one."""

    request: ImportRequest
    folder: str = ""

    @abstractmethod
    def take(self, count: int) -> Iterator[int]:
        """Yields ``count`` descriptors of regular files open for reading; closes each after use.

        Raises:
            ZhcacheError: One cannot be had.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go; a second call does nothing."""

    def known(self, path: str) -> str | None:
        """Returns the sha256 of the file that was yielded last, if its bytes are known already."""
        return None


class Arrivals(Incoming):
    """What a client hands over on one connection: a request, then its descriptors in order."""

    def __init__(self, channel: socket.socket, request: ImportRequest) -> None:
        self.request = request
        self._channel = channel
        channel.settimeout(READ_TIMEOUT_S)

    def take(self, count: int) -> Iterator[int]:
        """Yields ``count`` descriptors of regular files open for reading; closes each after use.

        Raises:
            UsageError: The client went away, sent too few, or something that is no plain file.
        """
        left = count
        while left > 0:
            batch = self._receive()
            try:
                if not batch or len(batch) > left:
                    raise UsageError(
                        "the client sent {seen} of {count} files",
                        hint="start the import again",
                        seen=count - left,
                        count=count,
                    )
                left -= len(batch)
                while batch:
                    descriptor = batch.pop(0)
                    try:
                        _check(descriptor)
                        yield descriptor
                    finally:
                        os.close(descriptor)
            finally:
                for descriptor in batch:
                    os.close(descriptor)

    def close(self) -> None:
        """Ends the connection; a client still sending is told by the kernel."""
        self._channel.close()

    def _receive(self) -> list[int]:
        size = array.array("i").itemsize
        try:
            _, ancillary, flags, _ = self._channel.recvmsg(
                1, socket.CMSG_SPACE(MAX_DESCRIPTORS * size), socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise UsageError("the client stopped sending: {reason}", reason=error) from error
        descriptors: list[int] = []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % size])
                descriptors.extend(found)
        if flags & socket.MSG_CTRUNC:
            for descriptor in descriptors:
                os.close(descriptor)
            raise UsageError("more than {limit} descriptors in one message", limit=MAX_DESCRIPTORS)
        return descriptors


def _check(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise UsageError("a descriptor is not of a plain file")
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise UsageError("a descriptor is not open for reading")
