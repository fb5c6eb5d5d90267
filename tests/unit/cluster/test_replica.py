"""A replica says which node has an error, and hands on what waits once Serve has let go of it."""

import asyncio
import time

import msgspec
import pytest

from harness.paintkit import Studio, task
from zhcache.cluster import replica
from zhcache.cluster.node import Node
from zhcache.errors import DaemonUnreachable, UsageError


@pytest.fixture
def studio():
    return Studio()


@pytest.fixture
def served(studio, monkeypatch):
    """A replica without Ray, which names the node."""
    monkeypatch.setattr(replica, "_LOOK_S", 0.01)
    made = replica.Replica.__new__(replica.Replica)
    made._node = Node(name="far", open_pipeline=studio.open, warm=studio.warm)
    yield made
    made._node.close()


def asked(served, seed=0):
    return served.make(model="org/a", task=msgspec.to_builtins(task(seed=seed)))


def test_call_that_runs_ends_here_and_one_that_waits_is_handed_on(studio, served):
    async def calls():
        await served.record_routing_stats()
        runs = asyncio.create_task(asked(served, 1))
        await asyncio.to_thread(studio.begun.acquire)
        waits = asyncio.create_task(asked(served, 2))
        served._asked = time.monotonic() - 2 * replica._LEFT_S
        handed_on = await waits
        assert not runs.done()
        studio.go_on.set()
        return handed_on, await runs

    studio.go_on.clear()
    handed_on, made = asyncio.run(calls())
    assert (handed_on["error"]["code"], studio.drawn) == ("busy", [1])
    assert "far" in handed_on["error"]["message"]
    assert made["picture"]["pixels"]


def test_call_that_waits_is_kept_while_serve_asks_how_the_node_is(studio, served):
    async def calls():
        await served.record_routing_stats()
        made = [asyncio.create_task(asked(served, seed)) for seed in range(2)]
        await asyncio.to_thread(studio.begun.acquire)
        await asyncio.wait(made, timeout=0.05)
        studio.go_on.set()
        return await asyncio.gather(*made)

    studio.go_on.clear()
    assert all("picture" in one for one in asyncio.run(calls()))
    assert studio.drawn == [0, 1]


def test_call_that_serve_cancels_is_not_begun(studio, served):
    async def calls():
        runs = asyncio.create_task(asked(served, 1))
        await asyncio.to_thread(studio.begun.acquire)
        waits = asyncio.create_task(asked(served, 2))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.wait([waits])
        studio.go_on.set()
        await runs
        return await asked(served, 3)

    studio.go_on.clear()
    assert "picture" in asyncio.run(calls())
    assert studio.drawn == [1, 3]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DaemonUnreachable("no daemon at {path}", hint="see {path}", path="x"), "node far: no da"),
        (UsageError("no such {path}", hint="see {path}", path="x"), "no such x"),
    ],
)
def test_error_that_one_node_has_names_it(studio, served, error, message):
    studio.errors.append(error)
    told = asyncio.run(asked(served))["error"]
    assert told["message"].startswith(message)
    assert (told["code"], told["hint"]) == (error.code, "see x")


def test_node_tells_why_it_stands_idle(served, monkeypatch):
    def silent():
        raise DaemonUnreachable("no daemon")

    assert asyncio.run(served.tell())["failure"] is None
    monkeypatch.setattr(served._node, "_look", silent)
    told = asyncio.run(served.tell())
    assert (told["node"], told["failure"]["message"]) == ("far", "node far: no daemon")
