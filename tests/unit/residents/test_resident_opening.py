"""How long who opens a resident pipeline waits, and what is told when that is over."""

import os
import time

import pytest

from zhcache.errors import Busy
from zhcache.protocol import residency
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


def test_who_has_the_room_is_named_when_the_time_to_wait_for_it_is_over(make, served):
    house = make(workers=2)
    served(house)
    for repo, uid in (("lab/one", 41), ("lab/one", 42), ("lab/two", 43)):
        house.client(repo, uid=uid).opened()
    house.client("lab/three").until_note("waits for room")
    with pytest.raises(Busy) as raised:
        opened("lab/three", timeout=0)
    me = f"process {os.getpid()} of uid"
    assert raised.value.message.endswith(
        f"is held by lab/one on cpu of {me} 41, {me} 42; lab/two on cpu of {me} 43"
    )
    assert "zhcache stop" in raised.value.hint


def test_who_has_a_workers_arenas_is_named(make):
    house = make()
    house.client("lab/one", uid=41, device="GPU-1").opened()
    named = house.residents.holder(house.arenas.held[0])
    assert named == f"lab/one on GPU-1 of process {os.getpid()} of uid 41"
    assert house.residents.holder("resident-99-ab") is None


@pytest.mark.parametrize("repo", ["lab/one", "lab/none"])
def test_what_starts_workers_is_prepared_before_the_snapshot_is_there(make, repo):
    house = make(told={"load": "refuse"})
    house.client(repo).until(residency.Failed)
    assert house.launcher.prepared == 1


def test_nothing_is_prepared_for_what_is_warm(make):
    house = make()
    for _ in range(2):
        house.client("lab/one").opened()
    assert house.launcher.prepared == 1
