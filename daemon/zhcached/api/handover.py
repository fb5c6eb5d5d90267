"""The second socket: for what HTTP cannot carry, descriptors.

A message is four bytes of length and JSON; descriptors follow by SCM_RIGHTS. The daemon never
opens a path that a client names: the client opens its own files, under its own rights, and hands
them over. Source of the rule: CVE-2024-27297 and its kin, a service talked into opening a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import uuid

import msgspec
import structlog

from zhcache.errors import Busy, UsageError, ZhcacheError
from zhcache.protocol import version
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ErrorReply, ImportRequest
from zhcache.protocol.names import check_listing, is_commit, parse_path, parse_repo, parse_revision
from zhcached.api.peer import Peer, of_socket
from zhcached.api.services import Services
from zhcached.jobs import state
from zhcached.jobs.arrivals import Arrivals

MAX_HEAD = 16 * 2**20
MAX_FILES = 10_000
MAX_CONNECTIONS = 16
HEAD_DEADLINE_S = 10.0
_LENGTH = struct.Struct(">I")

log = structlog.get_logger()
_decoder = msgspec.json.Decoder(ImportRequest)


class Handover:
    """Serves ``handover.sock``, a thread for each connection, at most ``MAX_CONNECTIONS``."""

    def __init__(self, services: Services, listener: socket.socket) -> None:
        self._services = services
        self._listener = listener
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Begins to accept."""
        threading.Thread(target=self._accept, name="handover", daemon=True).start()

    async def stop(self) -> None:
        """Stops accepting; imports that run are jobs and end with them."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                channel, _ = self._listener.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                _send(channel, ErrorReply(error=to_info(Busy("too many imports at once"))))
                channel.close()
                continue
            threading.Thread(target=self._serve, args=(channel,), daemon=True).start()

    def _serve(self, channel: socket.socket) -> None:
        try:
            request = _read_head(channel)
            job = self._submit(request, Arrivals(channel), of_socket(channel))
            _send(channel, job)
        except ZhcacheError as error:
            _send(channel, ErrorReply(error=to_info(error)))
            channel.close()
        except OSError as error:
            log.info("handover.dropped", error=str(error))
            channel.close()
        finally:
            self._places.release()

    def _submit(self, request: ImportRequest, arrivals: Arrivals, peer: Peer) -> msgspec.Struct:
        task = state.Import(request.repo, request.commit, request.revision)
        key = f"import {uuid.uuid4().hex}"
        self._services.performer.expect(key, request, arrivals)
        submitting = self._services.jobs.submit(task, key, peer.uid)
        try:
            return asyncio.run_coroutine_threadsafe(submitting, self._loop).result()
        except ZhcacheError:
            self._services.performer.forget(key)
            raise


def _read_head(channel: socket.socket) -> ImportRequest:
    channel.settimeout(HEAD_DEADLINE_S)
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
    if length > MAX_HEAD:
        raise UsageError("the request is larger than {limit} bytes", limit=MAX_HEAD)
    try:
        request = _decoder.decode(_read(channel, length))
    except msgspec.MsgspecError as error:
        raise UsageError("the request is malformed: {reason}", reason=error) from error
    version.check(str(request.protocol))
    parse_repo(request.repo)
    if request.revision is not None:
        parse_revision(request.revision)
    if request.commit is not None and not is_commit(request.commit):
        raise UsageError("{commit} is not a full commit", commit=request.commit[:80])
    if not 0 < len(request.files) <= MAX_FILES:
        raise UsageError("an import has 1 to {limit} files", limit=MAX_FILES)
    check_listing([parse_path(file.path) for file in request.files])
    return request


def _read(channel: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = channel.recv(min(count - len(received), 1 << 16))
        if not part:
            raise ConnectionResetError("the client closed before its request was complete")
        received += part
    return bytes(received)


def _send(channel: socket.socket, message: msgspec.Struct) -> None:
    body = msgspec.json.encode(message)
    with contextlib.suppress(OSError):
        channel.sendall(_LENGTH.pack(len(body)) + body)
