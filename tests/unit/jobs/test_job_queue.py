import asyncio
import threading

import pytest

from harness.storekit import Clock
from zhcache.errors import NoSpace
from zhcache.protocol.messages import PrefetchRequest, VerifyRequest
from zhcached.jobs import queue, state
from zhcached.store.catalog import Catalog

DONE = state.Done()


class Resource:
    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog(tmp_path / "index.sqlite")
    yield opened
    opened.close()


def task(name: str) -> state.Verify:
    return state.Verify(VerifyRequest(repo=name))


def until_cancelled(_, control):
    control.enter(state.Running())
    assert control.cancelled.wait(20)
    control.check()


def run(catalog, perform, scene):
    async def whole():
        jobs = queue.Jobs(catalog, Clock(), perform)
        try:
            return await scene(jobs)
        finally:
            await jobs.stop(5)

    return asyncio.run(whole())


async def ended(jobs, job):
    return [picture async for picture in jobs.follow(job.id)][-1]


def test_equal_requests_join_one_job(catalog):
    async def scene(jobs):
        first = await jobs.submit(task("a/b"), "key", 1)
        second = await jobs.submit(task("a/b"), "key", 2)
        return first, second

    first, second = run(catalog, until_cancelled, scene)
    assert first.id == second.id
    assert (first.joined, second.joined) == (False, True)


def test_resource_is_closed_when_its_job_ends_and_when_it_never_ran(catalog):
    resources = [Resource() for _ in range(queue.MAX_LOCAL + 1)]

    async def scene(jobs):
        submitted = [
            await jobs.submit(task(f"a/{n}"), str(n), 1, one) for n, one in enumerate(resources)
        ]
        for job in reversed(submitted):
            await jobs.cancel(job.id, uid=1, may_all=False)
        return [(await ended(jobs, job)).state for job in submitted]

    assert set(run(catalog, until_cancelled, scene)) == {"cancelled"}
    assert all(one.closed for one in resources)


def test_job_a_user_cancelled_does_not_come_back_after_a_stop(catalog):
    waiting = threading.Event()

    def slow(_, control):
        control.enter(state.Running())
        waiting.set()
        control.cancelled.wait(20)
        control.check()

    async def scene(jobs):
        kept = await jobs.submit(task("a/kept"), "kept", 1)
        lost = await jobs.submit(task("a/lost"), "lost", 1)
        await asyncio.to_thread(waiting.wait, 10)
        jobs._entries[lost.id].control.cancelled.set()
        await jobs.stop(5)
        return kept.id, lost.id

    kept, lost = run(catalog, slow, scene)

    async def again(jobs):
        await jobs.restore()
        return {job.id: job.state for job in jobs.all(ended=True)}

    states = run(catalog, until_cancelled, again)
    assert states[lost] == "cancelled"
    assert states[kept] in ("queued", "running")


def test_follower_is_told_the_end_though_the_index_is_full(catalog, monkeypatch):
    class Full(queue.History):
        def keep(self, record):
            if record.ended:
                raise NoSpace("the disk is full")
            super().keep(record)

    monkeypatch.setattr(queue, "History", Full)

    async def scene(jobs):
        job = await jobs.submit(task("a/b"), "key", 1)
        return await asyncio.wait_for(ended(jobs, job), 10)

    assert run(catalog, lambda *_: (_[1].enter(state.Running()), DONE)[1], scene).state == "done"


def test_unfinished_job_is_restored_however_many_ended_after_it(catalog, monkeypatch):
    monkeypatch.setattr(queue, "MAX_HISTORY", 3)

    async def leave(jobs):
        job = await jobs.submit(state.Prefetch(PrefetchRequest(repo="a/old")), "old", 1)
        await jobs.stop(5)
        return job.id

    old = run(catalog, until_cancelled, leave)

    async def fill(jobs):
        for n in range(5):
            await ended(jobs, await jobs.submit(task(f"a/{n}"), str(n), 1))

    run(catalog, lambda *_: (_[1].enter(state.Running()), DONE)[1], fill)

    async def restore(jobs):
        await jobs.restore()
        return {job.id for job in jobs.all(ended=True)}

    found = run(catalog, until_cancelled, restore)
    assert old in found
    assert len(found) == 4


def test_step_the_table_lacks_ends_the_job_as_a_defect_and_not_the_queue(catalog):
    async def scene(jobs):
        broken = await jobs.submit(task("a/b"), "key", 1)
        return (await ended(jobs, broken)).error.message

    assert "no step" in run(catalog, lambda *_: (_[1].enter(state.Fetching(1)), DONE)[1], scene)
