"""Chinese prompts: what is held that reads them for a model."""

from __future__ import annotations

import asyncio

from zhcache.protocol.prompts import ChineseChoices
from zhcached.api.route import Call, Route
from zhcached.residency.prompts.fitting import choices, everything


async def show(call: Call) -> ChineseChoices:
    """Tells which encoders, adapters and translators fit a held snapshot; without one, all."""
    repo = call.request.query.get("repo")
    services = call.services
    if repo is None:
        return await asyncio.to_thread(everything, services.store, services.config.chinese)
    return await asyncio.to_thread(
        choices,
        services.store,
        services.config.chinese,
        repo,
        call.revision(),
        call.variant(),
        uid=call.peer.uid,
    )


ROUTES = (
    Route("GET", "/v1/chinese", show, "Tell what reads Chinese for a model", gives=ChineseChoices),
)
