"""How long who opens a resident pipeline waits, and what is told when that is over."""

import time

import pytest

from zhcache.errors import Busy
from zhcache.resident.open import open_resident
from zhcached.api import residents as conversation

SLOW_S = 0.05
"""Longer than a client without time would wait for a frame."""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Returns a function that has a house answer late on the socket that clients here dial."""

    def late(*arguments):
        time.sleep(SLOW_S)
        conversation.serve(*arguments)

    def serve(house):
        monkeypatch.setenv("ZHCACHE_SOCKET", str(house.listen(tmp_path, answer=late)))

    return serve


def opened(repo="lab/one", **fields):
    return open_resident(repo, device="cpu", unaided=True, **fields)


def test_what_is_warm_is_had_without_time_to_wait(make, served):
    house = make()
    served(house)
    house.client("lab/one").opened()
    with opened(timeout=0) as pipe:
        assert pipe.repo == "lab/one"


def test_what_is_not_warm_is_not_waited_for_without_time(make, served, tmp_path):
    house = make(told={"gate": str(tmp_path / "gate")})
    served(house)
    heard = []
    with pytest.raises(Busy, match="not ready in the time given"):
        opened(timeout=0, on_progress=heard.append)
    assert heard[0].note == "a worker starts"


def test_who_comes_while_the_worker_loads_is_told_at_once_how_far_it_is(make):
    house = make(workers=1)
    house.client("lab/one").opened()
    house.client("lab/two").until_note("waits for room")
    assert house.client("lab/two").next().note.startswith("waits for room")
