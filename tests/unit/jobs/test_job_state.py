import msgspec
import pytest

from zhcache.protocol.messages import ErrorInfo, PrefetchRequest, PrefetchResult
from zhcached.jobs import state

REQUEST = state.Prefetch(PrefetchRequest(repo="org/name"))
ERROR = ErrorInfo(code="failed", message="no")


def record(step: state.State) -> state.Record:
    return state.Record("id", "key", 1000, 1.0, 1.0, REQUEST, step)


def result() -> PrefetchResult:
    return PrefetchResult(
        repo="org/name", revision="main", commit="c" * 40, path="/p", files=1, bytes=10,
        bytes_fetched=10, bytes_reused=0, seconds=1.0, sources={}, trust="first-use",
    )  # fmt: skip


@pytest.mark.parametrize("ended", [state.Done(result()), state.Failed(ERROR), state.Cancelled(0)])
def test_step_is_refused_when_the_job_has_ended(ended):
    with pytest.raises(ValueError, match="no step"):
        record(ended).step(state.Resolving(), 2.0)


def test_every_state_that_has_not_ended_can_return_to_the_queue():
    for step, following in state.STEPS.items():
        if step not in state.ENDED and step is not state.Queued:
            assert state.Queued in following, step


def test_every_state_can_be_reached():
    reached = {state.Queued}
    while more := {n for s in reached for n in state.STEPS[s]} - reached:
        reached |= more
    assert reached == set(state.STEPS)


def test_record_survives_its_json():
    kept = record(state.Fetching(bytes_total=10))
    assert msgspec.json.decode(msgspec.json.encode(kept), type=state.Record) == kept


def test_view_counts_a_finished_job_as_whole():
    shown = state.view(record(state.Done(result())))
    assert (shown.bytes_done, shown.bytes_total, shown.state) == (10, 10, "done")
