"""Quality: what users measured of variants is kept with them and shown to everybody."""

from __future__ import annotations

import asyncio

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.names import is_commit, parse_repo, parse_variant
from zhcache.protocol.variants import Quality, QualityRequest
from zhcached.api.route import Call, Route


async def keep(call: Call) -> Quality:
    """Keeps it under the name of whoever measured; the newest is shown."""
    return await asyncio.to_thread(_keep, call, call.body)


def _keep(call: Call, request: QualityRequest) -> Quality:
    services, repo = call.services, parse_repo(request.repo)
    if not is_commit(request.commit):
        raise UsageError("{commit} is not a commit", commit=repr(request.commit[:50]))
    held = services.store.variant(repo, request.commit, parse_variant(request.variant))
    quality = msgspec.structs.replace(
        request.quality,
        device=request.quality.device[:80],
        measured=services.clock.wall(),
        uid=call.peer.uid,
    )
    services.store.qualities.keep(repo, held.commit, quality)
    return quality


ROUTES = (
    Route(
        "POST", "/v1/quality", keep, "Keep what was measured of a variant",
        takes=QualityRequest, gives=Quality,
    ),
)  # fmt: skip
