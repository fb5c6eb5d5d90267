"""The second socket: for what HTTP cannot carry, descriptors.

Frames (``zhcache.protocol.frames``) both ways. The first says by ``op`` what the connection is
for: files that come in, arenas or small files that go out, a resident pipeline. Each conversation
has a thread of its own; how many there may be is counted for each user, and a request that does not
arrive whole in time ends its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time

import msgspec
import structlog

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol import frames, version
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ImportRequest, Message
from zhcache.protocol.residency import AttachRequest, Failed, FilesRequest, ResidentRequest
from zhcached.api import attach, imports, residents, small
from zhcached.api.accept import PAUSE_S
from zhcached.api.peer import Peer, of_socket
from zhcached.api.quota import Quota
from zhcached.api.services import Services
from zhcached.errors import defect

MAX_CONNECTIONS_PER_UID = 256
MAX_CONNECTIONS = 1024
MAX_IMPORTS_PER_UID = 8
MAX_ATTACHES_PER_UID = 64
MAX_SMALL_HEAD = 64 * 2**10
"""Bytes. Only the long listing of an import needs more, and few may send one at once."""

HEAD_DEADLINE_S = 10.0
RETRY_S = 0.2
_LENGTH = struct.Struct(">I")

log = structlog.get_logger()


class _Head(Message):
    """What every request has. One without ``op`` is an import, by a client from before others."""

    op: str = "import"
    protocol: int = version.PROTOCOL


Request = ImportRequest | AttachRequest | FilesRequest | ResidentRequest
_KINDS: dict[str, type[Request]] = {
    "import": ImportRequest,
    "checkpoint": ImportRequest,
    "attach": AttachRequest,
    "files": FilesRequest,
    "resident": ResidentRequest,
}


class Handover:
    """Serves ``handover.sock``."""

    def __init__(self, services: Services, listener: socket.socket) -> None:
        self._services = services
        self._listener = listener
        self._connections = Quota("connections", MAX_CONNECTIONS_PER_UID, MAX_CONNECTIONS)
        self._imports = Quota("imports", MAX_IMPORTS_PER_UID)
        self._attaches = Quota("attaching processes", MAX_ATTACHES_PER_UID)
        self._stopped = False
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Begins to accept."""
        threading.Thread(target=self._accept, name="handover", daemon=True).start()

    async def stop(self) -> None:
        """Stops accepting; imports that run are jobs and end with them."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                channel, _ = self._listener.accept()
            except OSError as error:
                if not self._stopped:
                    # Out of descriptors, most likely: that passes, and work must go on then.
                    log.warning("handover.not_accepted", error=str(error))
                    time.sleep(PAUSE_S)
                continue
            self._begin(channel)

    def _begin(self, channel: socket.socket) -> None:
        peer = of_socket(channel)
        try:
            self._connections.take(peer.uid)
        except ZhcacheError as error:
            _refuse(channel, error)
            return
        try:
            threading.Thread(target=self._serve, args=(channel, peer), daemon=True).start()
        except RuntimeError as error:
            log.warning("handover.not_served", error=str(error))
            channel.close()
            self._connections.leave(peer.uid)

    def _serve(self, channel: socket.socket, peer: Peer) -> None:
        try:
            raw = self._read_head(channel, peer)
            self._converse(channel, _decoded(raw), peer)
        except ZhcacheError as error:
            _refuse(channel, error)
        except (OSError, EOFError) as error:
            log.info("handover.dropped", uid=peer.uid, error=str(error))
            channel.close()
        except Exception as error:
            log.exception("handover.defect", uid=peer.uid)
            _refuse(channel, defect(error))
        finally:
            self._connections.leave(peer.uid)

    def _converse(self, channel: socket.socket, request: Request, peer: Peer) -> None:
        # The request came in its time; how long the rest may take is known to who serves it.
        channel.settimeout(None)
        if isinstance(request, ImportRequest):
            with self._imports.held(peer.uid):
                imports.serve(channel, request, peer.uid, self._services, self._loop)
        elif isinstance(request, AttachRequest):
            with self._attaches.held(peer.uid):
                attach.serve(channel, request, peer, self._services)
            channel.close()
        elif isinstance(request, FilesRequest):
            with self._attaches.held(peer.uid):
                small.serve(channel, request, peer, self._services)
            channel.close()
        else:
            residents.serve(channel, request, peer, self._services)
            channel.close()

    def _read_head(self, channel: socket.socket, peer: Peer) -> bytes:
        # One deadline for the whole head: a byte now and then must not hold a place for ever.
        # Descriptors beside it are not received and closed by the kernel.
        deadline = time.monotonic() + HEAD_DEADLINE_S
        (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
        if length > frames.MAX_FRAME:
            raise UsageError("the request is larger than {limit} bytes", limit=frames.MAX_FRAME)
        if length > MAX_SMALL_HEAD:
            with self._imports.held(peer.uid):
                return _read(channel, length, deadline)
        return _read(channel, length, deadline)


def _decoded(raw: bytes) -> Request:
    try:
        head = msgspec.json.decode(raw, type=_Head)
        version.check(str(head.protocol))
        kind = _KINDS.get(head.op)
        if kind is None:
            raise UsageError(
                "the daemon does not know the request {op}",
                hint="it may be older than this client: zhcache daemon status",
                op=head.op[:40],
            )
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError("the request is malformed: {reason}", reason=error) from error


def _read(channel: socket.socket, count: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < count:
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        part = channel.recv(min(count - len(received), 1 << 16))
        if not part:
            raise ConnectionResetError("the client closed before its request was complete")
        received += part
    return bytes(received)


def _refuse(channel: socket.socket, error: ZhcacheError) -> None:
    # Who imports reads it as an ErrorReply: a Failed has all of its fields.
    with channel, contextlib.suppress(OSError):
        channel.settimeout(RETRY_S)
        frames.send(channel, Failed(error=to_info(error)))
