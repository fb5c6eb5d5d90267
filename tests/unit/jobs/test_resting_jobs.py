"""Jobs of followed models, which may rest in the queue and run in places of their own."""

import asyncio
import threading

import pytest

from harness.storekit import Clock
from zhcache.protocol.messages import PrefetchRequest
from zhcached.jobs import queue, state
from zhcached.store.catalog import Catalog


@pytest.fixture
def catalog(tmp_path):
    opened = Catalog(tmp_path / "index.sqlite")
    yield opened
    opened.close()


class Work:
    """Runs until it is stopped; then until it may end."""

    def __init__(self):
        self.began = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.may_end.set()
        self.runs = 0

    def __call__(self, record, control):
        control.enter(state.Resolving())
        self.runs += 1
        self.began.release()
        assert control.cancelled.wait(20)
        assert self.may_end.wait(20)
        control.check()


def refresh(name="a/b"):
    return state.Refresh(PrefetchRequest(repo=name), "c" * 40, is_git=True, was=None)


def run(catalog, work, scene):
    async def whole():
        jobs = queue.Jobs(catalog, Clock(), work)
        try:
            return await scene(jobs)
        finally:
            work.may_end.set()
            await jobs.stop(5)

    return asyncio.run(whole())


async def began(work):
    assert await asyncio.to_thread(work.began.acquire, timeout=20)


async def until(claim):
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.005)


def test_job_that_rests_goes_on_as_itself(catalog):
    work = Work()

    async def scene(jobs):
        job = await jobs.submit(refresh(), "key", 1, rests="not now")
        assert (jobs.find(job.id).note, work.runs) == ("not now", 0)
        await jobs.resume(job.id)
        await began(work)
        jobs.rest(job.id, "later")
        await until(lambda: jobs.find(job.id).state == "queued")
        assert jobs.find(job.id).note == "later"
        await jobs.resume(job.id)
        await began(work)
        return jobs.find(job.id).state, work.runs

    assert run(catalog, work, scene) == ("resolving", 2)


def test_job_that_rests_is_cancelled_as_any_other(catalog):
    work = Work()

    async def scene(jobs):
        never_ran = await jobs.submit(refresh("a/a"), "a", 1, rests="not now")
        stopped = await jobs.submit(refresh("a/b"), "b", 1)
        await began(work)
        work.may_end.clear()
        jobs.rest(stopped.id, "later")
        asyncio.get_running_loop().call_later(0.05, work.may_end.set)
        ended = [await jobs.cancel(j.id, uid=1, may_all=False) for j in (never_ran, stopped)]
        return [job.state for job in ended]

    assert run(catalog, work, scene) == ["cancelled", "cancelled"]


def test_job_put_to_rest_as_the_daemon_stops_is_there_at_the_next_start_and_waits(catalog):
    work = Work()

    async def scene(jobs):
        job = await jobs.submit(refresh(), "key", 1)
        await began(work)
        work.may_end.clear()
        jobs.rest(job.id, "later")
        asyncio.get_running_loop().call_later(0.05, work.may_end.set)
        assert await jobs.stop(5)
        return job.id

    job_id = run(catalog, work, scene)

    async def again(jobs):
        assert await jobs.restore() == 0
        assert [record.id for record in jobs.refreshes()] == [job_id]
        seen = jobs.find(job_id)
        return seen.state, seen.note, work.runs

    assert run(catalog, work, again) == ("queued", queue.RESTORED, 1)


def test_fetches_of_followed_models_take_no_users_place(catalog):
    work = Work()

    async def scene(jobs):
        for n in range(queue.MAX_ACTIVE_PER_UID + 1):
            await jobs.submit(refresh(f"a/n{n}"), f"refresh {n}", 1)
        own = await jobs.submit(state.Prefetch(PrefetchRequest(repo="a/own")), "own", 1)
        await until(lambda: jobs.find(own.id).state == "resolving")
        return work.runs

    assert run(catalog, work, scene) <= queue.MAX_REFRESHES + 1
