"""What an error of one connection means for its source, and who is told."""

from __future__ import annotations

import random

from zhcached.errors import RemoteError, StatusError
from zhcached.fetch.limits import SlowError
from zhcached.fetch.offer import Sender
from zhcached.fetch.segments import Segment
from zhcached.fetch.verdict import (
    Again,
    OtherSource,
    Relocate,
    Restart,
    Stop,
    Verdict,
    judge,
)
from zhcached.fetch.work import Work
from zhcached.transport.dial import AbortedError
from zhcached.transport.http import Target


def settle_error(work: Work, segment: Segment, asked: Target | None, error: RemoteError) -> None:
    """Judges an error, applies the verdict to the source, and tells of it.

    Args:
        work: The file.
        segment: What was asked for.
        asked: Where, if the address was known before; an expired one is replaced only once.
        error: What came of it.

    Raises:
        RemoteError: ``error`` itself, where nothing helps.
    """
    if isinstance(error, AbortedError):
        return
    standing = segment.standing
    error.source = error.source or standing.offer.source
    roster = work.allotment.roster
    with work.changed:
        if work.is_over:
            return
        is_stale = asked is not standing.located and standing.was_relocated
        if is_stale and isinstance(error, StatusError):
            # Another connection has already had the expired address replaced.
            return
        now = work.clock.monotonic()
        has_alternatives = roster.has_alternatives(standing, now)
        verdict = judge(
            error,
            standing.failures,
            retries=work.config.retries,
            has_alternatives=has_alternatives,
            was_relocated=standing.was_relocated,
            was_restarted=standing.was_restarted,
            random=random.random,
        )
        roster.apply(standing, verdict, error, now)
        work.changed.notify_all()
    work.control.on_fault(Sender(standing.offer.source, error.place or standing.plane), error)
    _tell(work, segment, verdict, error, has_alternatives=has_alternatives)


def _tell(
    work: Work, segment: Segment, verdict: Verdict, error: RemoteError, *, has_alternatives: bool
) -> None:
    tell, sender = work.control.on_event, segment.standing.sender
    match verdict:
        case Again(wait_s):
            tell("retry", sender, f"{error}; again in {wait_s:.1f} s")
        case Relocate():
            tell("relocate", sender, str(error))
        case Restart():
            tell("changed", sender, str(error))
        case OtherSource():
            kind = "slow" if isinstance(error, SlowError) else "switch"
            if verdict.rest_s:
                kind = "limited"
            tell(kind if has_alternatives else "given up", sender, str(error))
        case Stop():
            raise error
