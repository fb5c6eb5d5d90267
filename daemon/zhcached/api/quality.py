"""Quality: what users measured of variants is kept with them and shown to everybody."""

from __future__ import annotations

import asyncio

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.names import is_commit, parse_repo, parse_variant
from zhcache.protocol.variants import Quality, QualityRequest
from zhcached.api.route import Call, Route

MAX_PAIRS = 10**6
MAX_SIDE = 10**6
MAX_DB = 1000.0
MAX_SECONDS = 10.0**7


async def keep(call: Call) -> Quality:
    """Keeps it under the name of whoever measured; the newest is shown."""
    return await asyncio.to_thread(_keep, call, call.body)


def _keep(call: Call, request: QualityRequest) -> Quality:
    services, repo = call.services, parse_repo(request.repo)
    if not is_commit(request.commit):
        raise UsageError("{commit} is not a commit", commit=repr(request.commit[:50]))
    held = services.store.variant(repo, request.commit, parse_variant(request.variant))
    check(request.quality)
    quality = msgspec.structs.replace(
        request.quality,
        device=request.quality.device[:80],
        measured=services.clock.wall(),
        uid=call.peer.uid,
    )
    services.store.qualities.keep(repo, held.commit, quality)
    return quality


def check(told: Quality) -> None:
    """Refuses what nobody can have measured: it would be shown to everybody.

    Raises:
        UsageError: It names the first.
    """
    bounds: dict[str, tuple[float, float]] = {
        **dict.fromkeys(("pairs", "steps"), (1, MAX_PAIRS)),
        **dict.fromkeys(("width", "height"), (0, MAX_SIDE)),
        **dict.fromkeys(("psnr", "psnr_least"), (-MAX_DB, MAX_DB)),
        # What is exactly one comes out of sums a little above it.
        **dict.fromkeys(("ssim", "ssim_least"), (-1.01, 1.01)),
        **dict.fromkeys(("latent_cosine", "latent_cosine_least"), (-1.01, 1.01)),
        **dict.fromkeys(("seconds", "seconds_source"), (0, MAX_SECONDS)),
    }
    for name, (least, most) in bounds.items():
        value: float | None = getattr(told, name)
        if value is not None and not least <= value <= most:
            raise UsageError(
                "{value} cannot have been measured as {name}", name=name, value=str(value)[:20]
            )


ROUTES = (
    Route(
        "POST", "/v1/quality", keep, "Keep what was measured of a variant",
        takes=QualityRequest, gives=Quality,
    ),
)  # fmt: skip
