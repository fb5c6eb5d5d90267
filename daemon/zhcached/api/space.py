"""Space: what uses it, and what a collection frees."""

from __future__ import annotations

import asyncio

from zhcache.protocol.messages import GcReport, GcRequest, Space
from zhcached.api.route import Call, Route


async def show(call: Call) -> Space:
    """Tells space by repository and in all."""
    return await asyncio.to_thread(call.services.store.space_report)


async def collect(call: Call) -> GcReport:
    """Frees what nothing needs, and says why the rest stays."""
    request: GcRequest = call.body
    return await asyncio.to_thread(call.services.store.gc, dry_run=request.dry_run)


ROUTES = (
    Route("GET", "/v1/space", show, "Space used", gives=Space),
    Route("POST", "/v1/gc", collect, "Collect garbage", takes=GcRequest, gives=GcReport),
)
