"""Sources that send wrong bytes: no client ends with a wrong file, whatever it does next."""

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import FILES, REPO, WEIGHTS, Front

LARGE = "unet/model.safetensors"


def wrong_beginning(answer):
    """A client that took bytes as they came holds wrong ones, and knows that it lacks the rest."""
    assert answer.cut
    assert answer.status == 200
    assert 1000 < len(answer.body) < len(WEIGHTS)
    assert answer.body != WEIGHTS[: len(answer.body)]


def persist(front, body):
    """Goes on as hub clients do until the file is whole; returns the statuses on the way."""
    statuses = []
    while len(body) < len(WEIGHTS) or not statuses:
        front.forgive()
        answer = front.get(LARGE, Range=f"bytes={len(body)}-")
        statuses.append(answer.status)
        body = body + answer.body if answer.status == 206 else answer.body
        assert len(statuses) < 20
    assert body == WEIGHTS
    return statuses


@pytest.fixture
def liar():
    with Hub(name="liar") as hub:
        hub.add(REPO, FILES)
        hub.fault("corrupt", path=LARGE, offset=1000)
        # Slow enough that the client has some before the lie shows.
        hub.fault("rate", path=LARGE, rate=12 << 20)
        yield hub


def test_a_liar_alone(tmp_path, liar):
    with Front(tmp_path / "store", [liar]) as front:
        answer = front.get(LARGE)
        wrong_beginning(answer)
        # The liar is asked once more, and what that ends with may not be held against the healed.
        until(lambda: front.pulls.running == 0, "the fetch has failed")
        liar.heal()
        front.forgive()
        # The rest alone would make a whole file with a wrong beginning.
        assert set(persist(front, answer.body)) == {200}
        assert front.get(LARGE, Range="bytes=5-9").body == WEIGHTS


def test_a_range_counts_again_after_a_while(tmp_path, liar, monkeypatch):
    with Front(tmp_path / "store", [liar]) as front:
        wrong_beginning(front.get(LARGE))
        # The liar is asked once more, and that may be under way.
        until(lambda: front.pulls.running == 0, "the fetch has failed")
        liar.heal()
        front.forgive()
        assert front.get(LARGE).body == WEIGHTS
        monkeypatch.setattr("zhcached.jobs.pulling.doubts.LIFE_S", 0.0)
        assert front.get(LARGE, Range="bytes=5-9").body == WEIGHTS[5:10]


def test_a_restart_forgets_no_lie(tmp_path, liar):
    with Front(tmp_path / "store", [liar]) as front:
        answer = front.get(LARGE)
        wrong_beginning(answer)
    liar.heal()
    with Front(tmp_path / "store", [liar]) as front:
        assert set(persist(front, answer.body)) == {200}


@pytest.mark.parametrize("is_clean", [True, False])
def test_after_a_kill_nobody_resumes_what_may_not_be_durable(tmp_path, is_clean, monkeypatch):
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        hub.fault("cut", path=LARGE, at=1 << 20, times=1)
        hub.fault("status", path=LARGE, status=500, after=1)
        with Front(tmp_path / "store", [hub]) as front:
            answer = front.get(LARGE)
            assert answer.cut
            if not is_clean:
                monkeypatch.setattr(front.pulls._doubts, "close", lambda: None)
        hub.heal()
        with Front(tmp_path / "store", [hub]) as front:
            assert persist(front, answer.body) == [206 if is_clean else 200]


def test_a_liar_beside_an_honest_source(tmp_path, liar):
    with Hub(name="honest") as honest:
        honest.add(REPO, FILES)
        with Front(tmp_path / "store", [liar, honest]) as front:
            answer = front.get(LARGE)
            wrong_beginning(answer)
            rest = front.get(LARGE, Range=f"bytes={len(answer.body)}-")
            assert (rest.status, rest.body) == (200, WEIGHTS)
            assert front.health.report()[0].name == "honest"


def test_bytes_of_both_that_are_compared(tmp_path, liar):
    liar.fault("cut", path=LARGE, at=1 << 20)
    with Hub(name="honest") as honest:
        honest.add(REPO, FILES)
        honest.fault("rate", path=LARGE, rate=12 << 20)
        with Front(tmp_path / "store", [liar, honest]) as front:
            answer = front.get(LARGE)
            wrong_beginning(answer)
            rest = front.get(LARGE, Range=f"bytes={len(answer.body)}-")
            assert (rest.status, rest.body) == (200, WEIGHTS)
            assert honest.sent(LARGE) <= 2 * len(WEIGHTS)


def test_a_small_file_that_is_wrong_is_never_begun(tmp_path):
    with Hub(name="hub") as hub:
        hub.add(REPO, {"a.safetensors": WEIGHTS[:60_000]})
        hub.fault("corrupt", offset=10)
        with Front(tmp_path / "store", [hub]) as front:
            answer = front.get("a.safetensors")
            assert (answer.status, answer.cut) == (502, False)
            assert b"integrity" in answer.body
