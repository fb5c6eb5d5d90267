"""Sources that bring a file in an order of their own have their turn before the others.

While one brings enough nobody else is asked: a machine that took half of each file from one place
would be of no use to a swarm, which is there so that this place has less to send.
"""

from __future__ import annotations

from collections.abc import Sequence

from zhcache.errors import SourcesFailed
from zhcached.config import DownloadConfig
from zhcached.errors import RemoteError
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.offer import Control, LeftError, Offer, Receiver, Sender


def feed(
    ingest: Receiver,
    offers: Sequence[Offer],
    *,
    config: DownloadConfig,
    limiter: RateLimiter,
    control: Control,
) -> list[Offer]:
    """Has those that feed bring what they can; returns the others, who bring the rest.

    Where a reader waits for bytes nobody feeds: he wants them in order.

    Raises:
        SourcesFailed: They failed, something is missing, and there are no others.
        Cancelled: ``control.cancelled`` was set.
        ZhcacheError: The disk failed.
    """
    others = [offer for offer in offers if offer.feed is None]
    reasons: list[str] = []
    for offer in offers:
        if offer.feed is None or not ingest.missing() or (others and control.wanted()):
            continue
        sender = Sender(offer.source, "")
        try:
            offer.feed(ingest, control, config, limiter)
        except RemoteError as error:
            reasons.append(f"{offer.source}: {error}")
            if not isinstance(error, LeftError):
                control.on_fault(sender, error)
            if others:
                control.on_event("switch", sender, str(error))
    if reasons and ingest.missing() and not others:
        raise SourcesFailed(
            "no source could send the file ({reasons})",
            hint="see zhcache sources; what came so far is kept, so the same command goes on there",
            reasons="; ".join(reasons),
        )
    return others
