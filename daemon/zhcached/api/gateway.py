"""The gateway: start it, see it, stop it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from zhcache.errors import NotPermitted
from zhcache.protocol.gateway import GatewayRequest, GatewayState
from zhcached.api.route import Call, Route, line, stream

if TYPE_CHECKING:
    from zhcached.gateway.gateway import Gateway, Serving

BEAT_S = 0.5
"""Between two looks at whether the gateway is on; every so many of them a line goes out."""

BEATS = 20


async def show(call: Call) -> GatewayState:
    """Tells where the gateway serves, and what it did."""
    return call.services.gateway.state()


async def serve(call: Call) -> GatewayState | web.StreamResponse:
    """Starts the gateway; the end of this very connection ends it, unless it is to stay."""
    _demand_owner(call)
    gateway, request = call.services.gateway, call.body
    assert isinstance(request, GatewayRequest)
    serving = await _started(gateway, request)
    if request.detach:
        return gateway.state()
    try:
        return await _while_watched(call, serving)
    finally:
        await asyncio.shield(asyncio.to_thread(gateway.stop, serving))


async def stop(call: Call) -> GatewayState:
    """Ends serving, whoever began it."""
    _demand_owner(call)
    gateway = call.services.gateway
    await asyncio.shield(asyncio.to_thread(gateway.stop))
    return gateway.state()


async def _started(gateway: Gateway, request: GatewayRequest) -> Serving:
    starting = asyncio.ensure_future(asyncio.to_thread(gateway.start, request))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Whoever asked is gone, and the thread goes on.
        if not request.detach:
            await asyncio.shield(asyncio.to_thread(gateway.stop, await starting))
        raise


async def _while_watched(call: Call, serving: Serving) -> web.StreamResponse:
    gateway, stopping = call.services.gateway, call.services.stopping
    response = await stream(call.request)
    count = 0
    while gateway.is_on(serving) and not stopping.is_set():
        if count % BEATS == 0:
            await response.write(line(gateway.state()))
        count += 1
        try:
            await asyncio.wait_for(stopping.wait(), BEAT_S)
        except TimeoutError:
            continue
    if not gateway.is_on(serving):
        await response.write(line(gateway.state()))
    return response


def _demand_owner(call: Call) -> None:
    if not call.peer.may_all:
        raise NotPermitted(
            "only root and the daemon's own user may start or stop the gateway",
            hint="ask an administrator: zhcache serve --detach",
        )


ROUTES = (
    Route("GET", "/v1/gateway", show, "The gateway", gives=GatewayState),
    Route(
        "POST",
        "/v1/gateway",
        serve,
        "Serve other machines while this connection lasts",
        takes=GatewayRequest,
        gives=GatewayState,
        streams=True,
    ),
    Route("DELETE", "/v1/gateway", stop, "Stop serving", gives=GatewayState),
)
