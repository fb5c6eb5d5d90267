"""What is warm: make it so, let it go, list it."""

from __future__ import annotations

import asyncio

from zhcache.protocol.messages import Device, Job, Residents
from zhcache.protocol.residency import Stopped, StopRequest, WarmRequest
from zhcached.api.route import Call, Route
from zhcached.jobs import state
from zhcached.jobs.warm import key_of
from zhcached.residency.door import check


async def warm(call: Call) -> Job:
    """Starts or joins a job that makes a held snapshot warm."""
    request: WarmRequest = call.body
    check(request)
    uid = call.peer.uid
    submitting = call.services.jobs.submit(state.Warm(request), key_of(request, uid), uid)
    return await asyncio.shield(submitting)


async def device(call: Call) -> Device:
    """Tells what a device's name means here, for who would fetch much before it is used."""
    name = call.request.match_info["name"]
    return await asyncio.to_thread(call.services.residency.device, name)


async def unload(call: Call) -> Stopped:
    """Lets go what is warm of a repository and not in use."""
    peer = call.peer
    stop = call.services.residency.stop
    return await asyncio.to_thread(stop, call.body, peer.uid, may_all=peer.may_all)


async def resident(call: Call) -> Residents:
    """Lists what is in use or warm."""
    return Residents(resident=await asyncio.to_thread(call.services.residency.listing))


ROUTES = (
    Route(
        "POST", "/v1/warm", warm, "Make a snapshot warm",
        takes=WarmRequest, gives=Job, status=202,
    ),
    Route(
        "POST", "/v1/unload", unload, "Let what is warm go", takes=StopRequest, gives=Stopped,
    ),
    Route("GET", "/v1/devices/{name}", device, "Tell what a device's name means", gives=Device),
    Route("GET", "/v1/resident", resident, "List what is in use or warm", gives=Residents),
)  # fmt: skip
