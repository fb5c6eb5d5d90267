"""Warm: a job that makes a held snapshot ready in memory, wherever it is wanted."""

from __future__ import annotations

import msgspec

from zhcache.protocol.residency import WarmRequest
from zhcached.jobs import state
from zhcached.jobs.control import Control
from zhcached.residency.door import Residency


def key_of(request: WarmRequest, uid: int) -> str:
    """Returns what two equal requests of one user have in common.

    Those of two users are two: each keeps the model for as long as this user wants it.
    """
    return f"warm {uid} {msgspec.json.encode(request).decode()}"


def make_warm(residency: Residency, record: state.Record, control: Control) -> state.Done:
    """Does one warm job.

    Raises:
        ZhcacheError: As ``Residency.warm``.
    """
    assert isinstance(record.task, state.Warm)
    control.enter(state.Running())

    def report(done: int, total: int, note: str) -> None:
        control.check()
        control.progress = state.Progress(bytes_done=done, bytes_total=total, note=note)

    found = residency.warm(record.task.request, record.uid, report, control.cancelled)
    return state.Done(warm=found)
