"""Sources: where bytes come from and how healthy each is."""

from __future__ import annotations

import asyncio

from zhcache.protocol.messages import Sources
from zhcache.protocol.probe import SourcesTested, SourceTest
from zhcached.api.route import Call, Route


async def list_sources(call: Call) -> Sources:
    """Lists the sources in the order they would be tried now."""
    return Sources(sources=await asyncio.to_thread(call.services.prefetcher.health.report))


async def test_sources(call: Call) -> SourcesTested:
    """Asks one source, or all, how they are now."""
    wanted: SourceTest = call.body
    tested = await asyncio.to_thread(call.services.prober.test, wanted.name)
    return SourcesTested(sources=tested)


ROUTES = (
    Route("GET", "/v1/sources", list_sources, "List sources", gives=Sources),
    Route(
        "POST",
        "/v1/sources/test",
        test_sources,
        "Test sources",
        takes=SourceTest,
        gives=SourcesTested,
    ),
)
