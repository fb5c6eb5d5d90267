"""``op: attach`` on the handover socket: a leased snapshot's arenas, with their descriptors.

The lease says what may be had and whose it is; the kernel says who asks. While a fill runs or room
is waited for, progress goes out, at least every few seconds; a client that hangs up ends its wait.
"""

from __future__ import annotations

import select
import socket
import time

import structlog

from zhcache.errors import NotFound, NotPermitted
from zhcache.protocol import frames
from zhcache.protocol.residency import Attached, AttachRequest, Progress
from zhcached.api.peer import Peer
from zhcached.api.services import Services
from zhcached.store.leases import Leased
from zhcached.store.store import Store

SEND_TIMEOUT_S = 10.0
"""A client that does not read for so long, with all of a socket's buffer unread, is let go."""

log = structlog.get_logger()


def serve(channel: socket.socket, request: AttachRequest, peer: Peer, services: Services) -> None:
    """Answers with the arenas; returns when they are sent.

    Raises:
        NotFound: No such lease, or no such device.
        NotPermitted: Another user's lease.
        OSError: The client went away.
        ZhcacheError: What kept the arenas from being filled.
    """
    leased = owned(services.store, request.lease, peer)
    channel.settimeout(SEND_TIMEOUT_S)
    began = time.monotonic()
    found = services.arenas.attach(
        request.lease,
        leased.repo,
        leased.commit,
        leased.uid,
        request.device,
        damaged=request.damaged,
        components=request.components,
        on_progress=lambda progress: _tell(channel, progress),
        cancelled=HungUp(channel),
    )
    if services.store.leases.find(request.lease) is None:
        # It ended while it was served, so that its end was told before there was anything to end.
        services.arenas.released(request.lease)
        raise NotFound("the lease ended meanwhile", hint="load the pipeline again")
    # Copies of our own: another thread may end the lease while we send, and a number that was
    # closed and opened again would hand over somebody else's memory.
    fds = services.arenas.copies(request.lease, [arena.key for arena, _ in found])
    try:
        frames.send(channel, Attached(arenas=[arena for arena, _ in found]), fds)
    finally:
        frames.close_all(fds)
    log.info(
        "arenas.attached",
        repo=leased.repo,
        uid=peer.uid,
        device=request.device,
        arenas=len(found),
        bytes=sum(arena.bytes for arena, _ in found),
        seconds=round(time.monotonic() - began, 4),
    )


def owned(store: Store, lease: str, peer: Peer) -> Leased:
    """Returns what ``lease`` is of, if it is the caller's own.

    Not even root attaches to another's: under ``share = "uid"`` it would be handed his memory.

    Raises:
        NotFound: There is no such lease.
        NotPermitted: It is another user's.
    """
    found = store.leases.find(lease)
    if found is None:
        raise NotFound(
            "there is no lease {id}", hint="it ended: load the pipeline again", id=lease[:40]
        )
    if found.uid != peer.uid:
        raise NotPermitted("lease {id} belongs to another user", id=lease[:40])
    return found


class HungUp:
    """Says by ``is_set``, as an Event does, whether the other side has gone or said anything.

    After its request a client has nothing to say until it is answered.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN | select.POLLRDHUP)

    def is_set(self) -> bool:
        """Asks the kernel; waits for nothing."""
        return bool(self._poll.poll(0))


def _tell(channel: socket.socket, progress: Progress) -> None:
    frames.send(channel, progress)
