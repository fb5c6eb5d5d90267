"""Leases: a snapshot stays while somebody uses it.

The connection is the lease. It needs no renewing and cannot be forgotten: when the client ends,
however it ends, the kernel closes the socket. The record names the process as well, so that a
lease outlives a restart of the daemon as long as that process lives.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from zhcache.errors import NotFound, NotPermitted
from zhcache.protocol.messages import Lease, LeaseRequest
from zhcached.api.peer import Peer
from zhcached.api.route import Call, Route, line, stream
from zhcached.api.services import Services
from zhcached.store.meant import meant, told

HEARTBEAT_S = 20.0


async def hold(call: Call) -> web.StreamResponse:
    """Grants a lease that lasts as long as the answer's connection."""
    stopping = call.services.stopping
    lease = await _granted(call.services, call.body, call.peer)
    try:
        response = await stream(call.request)
        await response.write(line(lease))
        while not stopping.is_set():
            try:
                await asyncio.wait_for(stopping.wait(), HEARTBEAT_S)
            except TimeoutError:
                await response.write(b"\n")
        return response
    finally:
        # A daemon that stops leaves the record: the process still uses the files, and the next
        # daemon ends the lease when that process is gone.
        if not stopping.is_set():
            await asyncio.shield(asyncio.to_thread(_end, call.services, lease.id))


def _end(services: Services, lease: str) -> None:
    services.store.leases.end(lease)
    services.arenas.released(lease)


async def _granted(services: Services, request: LeaseRequest, peer: Peer) -> Lease:
    """Grants a lease; one whose client hung up meanwhile is ended as soon as it is there."""
    granting = asyncio.ensure_future(asyncio.to_thread(_grant, services, request, peer))

    def take_back(ended: asyncio.Future[Lease]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            services.store.leases.end(ended.result().id)

    try:
        return await asyncio.shield(granting)
    except asyncio.CancelledError:
        granting.add_done_callback(take_back)
        raise


def _grant(services: Services, request: LeaseRequest, peer: Peer) -> Lease:
    store = services.store
    manifest = meant(store, request.repo, request.revision or None, request.variant)
    repo = manifest.repo_id
    lease = store.leases.grant(repo, manifest.commit, uid=peer.uid, pid=peer.pid)
    commit, variant = told(manifest)
    return Lease(
        id=lease,
        repo=manifest.repo,
        commit=commit,
        variant=variant,
        path=str(store.view.snapshot_dir(repo, manifest.commit)),
        bytes=manifest.bytes,
        host=services.host,
    )


async def release(call: Call) -> None:
    """Ends a lease of the caller's before its connection closes."""
    leases = call.services.store.leases
    lease = call.request.match_info["id"]
    owner = await asyncio.to_thread(leases.owner, lease)
    if owner is None:
        raise NotFound("there is no lease {id}", id=lease[:40])
    if owner != call.peer.uid and not call.peer.may_all:
        raise NotPermitted("lease {id} belongs to another user", id=lease)
    await asyncio.to_thread(_end, call.services, lease)


ROUTES = (
    Route(
        "POST", "/v1/leases", hold, "Hold a lease while connected",
        takes=LeaseRequest, gives=Lease, streams=True,
    ),
    Route("DELETE", "/v1/leases/{id}", release, "End a lease", status=204),
)  # fmt: skip
