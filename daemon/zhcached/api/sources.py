"""Sources: where bytes come from and how healthy each is."""

from __future__ import annotations

import asyncio

from zhcache.protocol.messages import Sources
from zhcached.api.route import Call, Route


async def list_sources(call: Call) -> Sources:
    """Lists the sources in the order they would be tried now."""
    return Sources(sources=await asyncio.to_thread(call.services.prefetcher.health.report))


ROUTES = (Route("GET", "/v1/sources", list_sources, "List sources", gives=Sources),)
