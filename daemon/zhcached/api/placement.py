"""What a placement is planned from: the machine's devices, and what a model's weights take."""

from __future__ import annotations

import asyncio

from zhcache.protocol.placement import DeviceList, WeightsList
from zhcached.api.route import Call, Route
from zhcached.convert.weighed import weighed
from zhcached.residency.topology import machine


async def devices(call: Call) -> DeviceList:
    """Lists the GPUs that the caller sees by the ``visible`` of its query, and what joins them."""
    arenas, share = call.services.arenas, call.services.config.residency.vram
    residents = call.services.residents

    def kept(uuid: str) -> tuple[int, int]:
        return arenas.bytes_on(uuid) + residents.beside_on(uuid), arenas.idle_on(uuid)

    seen = call.request.query.get("visible")
    return await asyncio.to_thread(machine, seen, share=share, kept=kept)


async def weights(call: Call) -> WeightsList:
    """Tells what the components of a held pipeline take, and what calls of it took."""
    store, repo = call.services.store, call.request.match_info["repo"]
    found = await asyncio.to_thread(weighed, store, repo, call.revision(), call.variant())
    return call.services.residents.seen.told(found)


_REPO = "{repo:[^/]+(?:/[^/]+)?}"
ROUTES = (
    Route("GET", "/v1/devices", devices, "List devices and what joins them", gives=DeviceList),
    Route("GET", f"/v1/weights/{_REPO}", weights, "Tell what weights take", gives=WeightsList),
)
