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
import time
import uuid
from collections import Counter

import msgspec
import structlog

from zhcache.errors import Busy, UsageError, ZhcacheError
from zhcache.protocol import version
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ErrorReply, ImportRequest
from zhcache.protocol.names import check_listing, is_commit, parse_path, parse_repo, parse_revision
from zhcached.api.peer import of_socket
from zhcached.api.services import Services
from zhcached.jobs import state
from zhcached.jobs.arrivals import Arrivals

MAX_HEAD = 16 * 2**20
MAX_FILES = 10_000
MAX_CONNECTIONS_PER_UID = 8
RETRY_S = 0.2
HEAD_DEADLINE_S = 10.0
_LENGTH = struct.Struct(">I")

log = structlog.get_logger()
_decoder = msgspec.json.Decoder(ImportRequest)


class Handover:
    """Serves ``handover.sock``: a thread for each connection, so many for each user."""

    def __init__(self, services: Services, listener: socket.socket) -> None:
        self._services = services
        self._listener = listener
        self._lock = threading.Lock()
        self._open: Counter[int] = Counter()
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
                    # Out of descriptors, most likely: that passes, and imports must go on then.
                    log.warning("handover.not_accepted", error=str(error))
                    time.sleep(RETRY_S)
                continue
            self._begin(channel)

    def _begin(self, channel: socket.socket) -> None:
        uid = of_socket(channel).uid
        with self._lock:
            has_place = self._open[uid] < MAX_CONNECTIONS_PER_UID
            self._open[uid] += has_place
        if not has_place:
            _send(channel, ErrorReply(error=to_info(Busy("too many imports at once"))))
            channel.close()
            return
        try:
            threading.Thread(target=self._serve, args=(channel, uid), daemon=True).start()
        except RuntimeError as error:
            log.warning("handover.not_served", error=str(error))
            channel.close()
            self._leave(uid)

    def _leave(self, uid: int) -> None:
        with self._lock:
            self._open[uid] -= 1

    def _serve(self, channel: socket.socket, uid: int) -> None:
        # The answer goes over a descriptor of its own: a job that fails at once closes the other.
        with channel.dup() as answering:
            try:
                request = _read_head(channel)
                arrivals = Arrivals(channel, request)
                _send(answering, self._submit(request, arrivals, uid))
            except ZhcacheError as error:
                _send(answering, ErrorReply(error=to_info(error)))
                channel.close()
            except OSError as error:
                log.info("handover.dropped", error=str(error))
                channel.close()
            finally:
                self._leave(uid)

    def _submit(self, request: ImportRequest, arrivals: Arrivals, uid: int) -> msgspec.Struct:
        task = state.Import(request.repo, request.commit, request.revision)
        key = f"import {uuid.uuid4().hex}"
        submitting = self._services.jobs.submit(task, key, uid, arrivals)
        return asyncio.run_coroutine_threadsafe(submitting, self._loop).result()


def _read_head(channel: socket.socket) -> ImportRequest:
    deadline = time.monotonic() + HEAD_DEADLINE_S
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
    if length > MAX_HEAD:
        raise UsageError("the request is larger than {limit} bytes", limit=MAX_HEAD)
    try:
        request = _decoder.decode(_read(channel, length, deadline))
    except (msgspec.MsgspecError, RecursionError) as error:
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


def _read(channel: socket.socket, count: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < count:
        # One deadline for the whole head: a byte now and then must not hold a place for ever.
        channel.settimeout(max(deadline - time.monotonic(), 0.001))
        part = channel.recv(min(count - len(received), 1 << 16))
        if not part:
            raise ConnectionResetError("the client closed before its request was complete")
        received += part
    return bytes(received)


def _send(channel: socket.socket, message: msgspec.Struct) -> None:
    body = msgspec.json.encode(message)
    with contextlib.suppress(OSError):
        channel.sendall(_LENGTH.pack(len(body)) + body)
