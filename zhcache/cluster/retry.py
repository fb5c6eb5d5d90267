"""What becomes of a call that failed: made again, made again later, or given up. Pure.

A call makes an image and changes nothing, so a second try is harmless. It is worth it where what
failed is the place, not the call. Errors of Ray are known by name: this module needs no Ray.
"""

from __future__ import annotations

from typing import Literal

from zhcache.errors import Busy, DaemonUnreachable, VersionMismatch, WorkerDied, ZhcacheError

Verdict = Literal["again", "later", "give up"]

LOST = frozenset(
    {
        "ActorDiedError",
        "ActorUnavailableError",
        "DeploymentUnavailableError",
        "LocalRayletDiedError",
        "NodeDiedError",
        "ObjectLostError",
        "ReplicaUnavailableError",
        "WorkerCrashedError",
    }
)
"""Of Ray's errors, their subclasses included: node, replica, result or deployment are gone."""

FULL = frozenset({"BackPressureError"})
"""Of Ray's errors: too many calls wait."""

TRIES = 5
"""Of one call; that its place dies five times in a row is no accident."""


def verdict(error: BaseException, tries: int) -> Verdict:
    """Returns what is to be done about ``error``, with which the ``tries``-th try ended.

    Waiting for room is no try: whoever waits says for how long.
    """
    if isinstance(error, Busy):
        return "later"
    # A daemon of another version is one node's: routers pass it by, once they have heard of it.
    is_lost = isinstance(error, DaemonUnreachable | WorkerDied | VersionMismatch)
    return "again" if is_lost and tries < TRIES else "give up"


def meant(error: BaseException) -> ZhcacheError:
    """Returns what an error of Ray's means."""
    if isinstance(error, ZhcacheError):
        return error
    said = str(error).strip().splitlines() or [type(error).__name__]
    # What user code raised comes with its traceback before it, whose end is what it said.
    reason = said[-1] if is_of_call(error) else said[0]
    if _is_one_of(error, FULL):
        return Busy("the cluster's queues are full: {reason}", reason=reason)
    if _is_one_of(error, LOST):
        return DaemonUnreachable(
            "the node that had the call was lost: {reason}",
            hint="see `ray status`, and `zhcache logs` on the nodes",
            reason=reason,
        )
    return ZhcacheError(
        "the cluster failed: {kind}: {reason}",
        hint="see `serve status` and the logs of Ray",
        kind=type(error).__name__,
        reason=reason,
    )


def is_of_call(error: BaseException) -> bool:
    """Whether what a call ran raised this, and not Ray on its way: a timeout may be either's."""
    return _is_one_of(error, frozenset({"RayTaskError"}))


def is_taken(error: BaseException) -> bool:
    """Whether the name of an actor is another one's."""
    return _is_one_of(error, frozenset({"ActorAlreadyExistsError"}))


def _is_one_of(error: BaseException, names: frozenset[str]) -> bool:
    kinds = type(error).__mro__
    return any(kind.__module__.startswith("ray.") and kind.__name__ in names for kind in kinds)
