"""What follows an error: again here, from another source, or stop. Pure.

One function decides, so that no loop retries on its own. Waits have full jitter: all machines of
a lab lose a hub at the same moment and must not come back at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zhcached.errors import (
    AddressRefused,
    LimitedError,
    RemoteError,
    RemoteInvalid,
    RepoUnavailable,
    StatusError,
    TransportError,
)
from zhcached.fetch.answer import ChangedError, OtherFileError
from zhcached.fetch.limits import SlowError
from zhcached.transport.dial import LateError

BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 30.0
MAX_WAIT_S = 300.0
PATIENT_WITH_NONSENSE = 2
# How long a source that only failed rests while another has its turn.
REST_S = 10.0
# A wait longer than this is spent at another source, if there is one.
PATIENCE_S = 2.0

_EXPIRED = {401, 403, 410}
_MISSING = 404
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}


@dataclass(frozen=True, slots=True)
class Again:
    """Ask the same source again after ``wait_s``."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Relocate:
    """Ask the source for the file's address again: the signed one has expired."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The source's file changed: what it sent so far is worthless, begin with it anew."""


@dataclass(frozen=True, slots=True)
class OtherSource:
    """Go on with another source.

    Attributes:
        reason: For people.
        ban: This source is asked no more for this file; else it may be after ``rest_s``.
        lied: It sent something else than it promised.
        rest_s: Seconds of rest.
    """

    reason: str
    ban: bool = True
    lied: bool = False
    rest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing helps: the disk is full, the job cancelled, or it is a mistake of ours."""

    error: BaseException


Verdict = Again | Relocate | Restart | OtherSource | Stop


def judge(
    error: BaseException,
    failures: int,
    *,
    retries: int,
    has_alternatives: bool,
    was_relocated: bool,
    was_restarted: bool,
    random: Callable[[], float],
) -> Verdict:
    """Returns what to do after ``error``.

    Args:
        error: What came.
        failures: How often this source failed before, since it last made progress.
        retries: After as many failures without progress a source is given up.
        has_alternatives: Another source can be asked now.
        was_relocated: The address was asked for anew and nothing has come since.
        was_restarted: The source's file changed before.
        random: Uniform in 0..1.
    """
    if not isinstance(error, RemoteError):
        return Stop(error)
    if isinstance(error, ChangedError):
        if has_alternatives:
            return OtherSource(str(error), ban=False, rest_s=MAX_WAIT_S)
        return Again(0.0) if was_restarted else Restart()
    if isinstance(error, RemoteInvalid):
        # A gateway's page, a garbled head or an empty body may be gone in a moment, and is no lie
        # of the source; another file is one when it comes again.
        is_other = isinstance(error, OtherFileError)
        if failures >= min(retries, 1 if is_other else PATIENT_WITH_NONSENSE):
            return OtherSource(str(error), lied=is_other)
        if has_alternatives:
            return OtherSource(str(error), ban=False, rest_s=REST_S)
        return Again(backoff_s(failures, random))
    if isinstance(error, AddressRefused | RepoUnavailable):
        return OtherSource(str(error))
    if isinstance(error, StatusError):
        # What a data plane has just lost sight of is often found at the next address. A peer whose
        # word was stale is asked once alone: others have the file.
        is_lost = error.status == _MISSING and not has_alternatives
        if (error.status in _EXPIRED or is_lost) and not was_relocated:
            return Relocate()
        if error.status in _TRANSIENT and failures < retries:
            return _wait_or_switch(error, failures, has_alternatives, random)
        return OtherSource(str(error))
    if has_alternatives and isinstance(error, SlowError | LateError):
        return OtherSource(str(error), ban=False)
    if has_alternatives and failures:
        return OtherSource(str(error), ban=False, rest_s=REST_S)
    if isinstance(error, TransportError) and failures < retries:
        return Again(backoff_s(failures, random) if failures else 0.0)
    return OtherSource(str(error))


def _wait_or_switch(
    error: StatusError, failures: int, has_alternatives: bool, random: Callable[[], float]
) -> Verdict:
    asked = error.retry_after_s or 0.0
    if isinstance(error, LimitedError) and asked > MAX_WAIT_S and not has_alternatives:
        # Nothing is sent before: who waits is told so now rather than after an hour.
        return OtherSource(str(error))
    if asked >= MAX_WAIT_S and not has_alternatives:
        # A number that means never. The file is asked for a few times more at our own pace, so
        # that the user hears within seconds that its only source refuses it.
        asked = 0.0
    # A Retry-After of 0 is no leave to hammer: the own backoff is always kept.
    wait_s = max(backoff_s(failures, random), min(asked, MAX_WAIT_S))
    if has_alternatives and (failures or wait_s > PATIENCE_S):
        return OtherSource(str(error), ban=False, rest_s=max(wait_s, REST_S))
    return Again(wait_s)


def backoff_s(failures: int, random: Callable[[], float]) -> float:
    """Returns a wait of full jitter under a bound that doubles with each failure."""
    return random() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(failures, 10))
