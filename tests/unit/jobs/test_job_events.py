import asyncio

from zhcache.protocol.messages import Job
from zhcached.jobs.events import Feed


def picture(done: int, state="fetching") -> Job:
    return Job(id="j", kind="prefetch", repo="o/n", state=state, bytes_done=done)


def test_reader_who_falls_behind_gets_the_newest_and_the_last():
    async def scene():
        feed = Feed(picture(0, "queued"))
        reader = feed.follow()
        seen = [(await anext(reader)).bytes_done]
        for done in range(1, 1000):
            feed.post(picture(done))
        seen.append((await anext(reader)).bytes_done)
        feed.post(picture(1000, "done"))
        seen += [job.bytes_done async for job in reader]
        return seen

    assert asyncio.run(scene()) == [0, 999, 1000]


def test_reader_hears_a_heartbeat_when_nothing_happens():
    async def scene():
        reader = Feed(picture(3)).follow(heartbeat_s=0.01)
        return [(await anext(reader)).bytes_done for _ in range(3)]

    assert asyncio.run(scene()) == [3, 3, 3]


def test_many_readers_all_see_the_end():
    async def scene():
        feed = Feed(picture(0))

        async def read():
            return [job.state async for job in feed.follow()][-1]

        readers = [asyncio.ensure_future(read()) for _ in range(200)]
        await asyncio.sleep(0)
        feed.post(picture(9, "failed"))
        return await asyncio.gather(*readers)

    assert set(asyncio.run(scene())) == {"failed"}
