import threading

import msgspec
import pytest

from zhcache.errors import Cancelled
from zhcache.protocol.messages import WarmResult
from zhcache.protocol.residency import WarmRequest
from zhcached.jobs import state
from zhcached.jobs.control import Control
from zhcached.jobs.warm import key_of, make_warm

REQUEST = WarmRequest(repo="org/name", revision="main")
RESULT = WarmResult(
    repo="org/name", commit="c" * 40, variant=None, device="cpu", mode="attach", bytes=10,
    bytes_resident=8, locked=False, expires=5.0,
)  # fmt: skip


def record(step: state.State) -> state.Record:
    return state.Record("id", "key", 1000, 1.0, 1.0, state.Warm(REQUEST), step)


class Tier:
    """Reports two steps of a model of ten bytes."""

    def __init__(self, control, cancel_after=9):
        self.control = control
        self.cancel_after = cancel_after
        self.seen = []

    def warm(self, request, uid, report, cancelled):
        assert isinstance(cancelled, threading.Event)
        for done in (5, 10):
            report(done, 10, "reads")
            self.seen.append((request, uid, self.control.progress))
            if done >= self.cancel_after:
                self.control.cancelled.set()
        return RESULT


def test_equal_requests_of_one_user_are_one_job_and_those_of_two_are_two():
    assert key_of(REQUEST, 1) == key_of(WarmRequest(repo="org/name", revision="main"), 1)
    assert key_of(REQUEST, 1) != key_of(REQUEST, 2)
    assert key_of(REQUEST, 1) != key_of(msgspec.structs.replace(REQUEST, keep=1.0), 1)


def test_warm_job_shows_its_progress_and_its_result():
    states = []
    control = Control(states.append, None)
    tier = Tier(control)
    done = make_warm(tier, record(state.Queued()), control)
    assert states == [state.Running()]
    assert tier.seen[0] == (REQUEST, 1000, state.Progress(5, 10, note="reads"))
    shown = state.view(record(done), control.progress)
    assert (shown.kind, shown.repo, shown.revision) == ("warm", "org/name", "main")
    assert (shown.bytes_done, shown.bytes_total, shown.warm) == (10, 10, RESULT)


def test_cancelled_warm_job_ends_at_its_next_step():
    control = Control(lambda _: None, None)
    tier = Tier(control, cancel_after=5)
    with pytest.raises(Cancelled):
        make_warm(tier, record(state.Queued()), control)
    assert len(tier.seen) == 1


def test_warm_record_survives_its_json():
    kept = record(state.Done(warm=RESULT))
    assert msgspec.json.decode(msgspec.json.encode(kept), type=state.Record) == kept
