"""Leases: a snapshot stays while somebody uses it.

The connection is the lease. It needs no renewing and cannot be forgotten: when the client ends,
however it ends, the kernel closes the socket. The record names the process as well, so that a
lease outlives a restart of the daemon as long as that process lives.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from zhcache.errors import NotFound, NotPermitted, UsageError
from zhcache.protocol.messages import Lease, LeaseRequest, Resident, Residents
from zhcache.protocol.names import parse_repo, parse_revision
from zhcached.api.route import Call, Route, line, stream

HEARTBEAT_S = 20.0


async def hold(call: Call) -> web.StreamResponse:
    """Grants a lease that lasts as long as the answer's connection."""
    request: LeaseRequest = call.body
    if request.variant is not None:
        raise UsageError(
            "this release makes no variants yet: {name}", name=request.variant
        )
    store = call.services.store
    repo = parse_repo(request.repo)
    revision = parse_revision(request.revision) if request.revision else None
    lease = await asyncio.to_thread(store.lease, repo, revision, call.peer)
    try:
        response = await stream(call.request)
        await response.write(line(lease))
        while not call.services.stopping.is_set():
            try:
                await asyncio.wait_for(call.services.stopping.wait(), HEARTBEAT_S)
            except TimeoutError:
                await response.write(b"\n")
        return response
    finally:
        if not call.services.stopping.is_set():
            # Shielded: the cancellation that ends this handler must not keep the lease alive.
            await asyncio.shield(asyncio.to_thread(store.leases.end, lease.id))


async def release(call: Call) -> None:
    """Ends a lease of the caller's before its connection closes."""
    store = call.services.store
    lease_id = call.request.match_info["id"]
    found = [l for l in await asyncio.to_thread(store.leases.all) if l.id == lease_id]
    if not found:
        raise NotFound("there is no lease {id}", id=lease_id[:40])
    if found[0].uid != call.peer.uid and not call.peer.may_all:
        raise NotPermitted("lease {id} belongs to another user", id=lease_id)
    await asyncio.to_thread(store.leases.end, lease_id)


async def resident(call: Call) -> Residents:
    """Lists what is in use: one line for each model and user."""
    held: dict[tuple[str, int], Resident] = {}
    for lease in await asyncio.to_thread(call.services.store.leases.all):
        entry = held.setdefault(
            (lease.repo, lease.uid),
            Resident(
                repo=lease.repo,
                variant=None,
                device="cpu",
                bytes=lease.bytes,
                leases=0,
                uid=lease.uid,
                expires=None,
            ),
        )
        entry.leases += 1
    return Residents(resident=list(held.values()))


ROUTES = (
    Route(
        "POST", "/v1/leases", hold, "Hold a lease while connected",
        takes=LeaseRequest, gives=Lease, streams=True,
    ),
    Route("DELETE", "/v1/leases/{id}", release, "End a lease", status=204),
    Route("GET", "/v1/resident", resident, "List what is in use", gives=Residents),
)  # fmt: skip
