"""Feeds have their turn before the others, and what they do not bring the others do."""

import pytest

from demohub import Hub
from harness.fetchkit import content_of, offer
from zhcache.errors import SourcesFailed
from zhcached.errors import TransportError
from zhcached.fetch.offer import LeftError, Offer

SIZE = 300_000
CONTENT = content_of(SIZE)


@pytest.fixture(scope="module")
def url():
    with Hub() as hub:
        hub.add("org/model", {"a.bin": CONTENT})
        yield f"{hub.url}/org/model/resolve/main/a.bin"


class Feed:
    """Brings what is missing of the first ``count`` bytes of ``content``, then fails."""

    def __init__(self, content=CONTENT, count=SIZE, error=None):
        self.content, self.count, self.error, self.begun = content, count, error, 0

    def __call__(self, ingest, control, config, limiter):
        self.begun += 1
        for start, end in ingest.missing():
            ingest.write(start, self.content[start : min(end, self.count)], "swarm")
        if self.error is not None:
            raise self.error


def fed(fetching, feed, *others):
    faults = []
    fetching.control.on_fault = lambda sender, error: faults.append((sender.source, str(error)))
    return fetching.obtain(CONTENT, [Offer("swarm", feed=feed), *others]), faults


def test_nobody_else_is_asked_while_a_feed_brings_all(fetching, url):
    came, faults = fed(fetching, Feed(), offer("hub", url))
    assert (fetching.blob(came), came.fetched, faults) == (CONTENT, {}, [])


def test_what_a_feed_leaves_comes_from_the_others(fetching, url):
    stalled = Feed(count=100_000, error=TransportError("stalled"))
    came, faults = fed(fetching, stalled, offer("hub", url))
    assert fetching.blob(came) == CONTENT
    assert came.fetched == {"hub": len(CONTENT) - 100_000}
    assert faults == [("swarm", "stalled")]
    assert fetching.kinds("swarm") == ["switch"]


def test_feed_that_ends_through_no_fault_of_its_own_is_not_blamed(fetching, url):
    _, faults = fed(fetching, Feed(count=0, error=LeftError("no room")), offer("hub", url))
    assert faults == []


def test_feed_alone_that_fails_is_why_the_file_did_not_come(fetching):
    with pytest.raises(SourcesFailed, match="swarm: stalled"):
        fed(fetching, Feed(count=5, error=TransportError("stalled")))


def test_feed_of_wrong_bytes_has_lied_and_the_others_bring_all(fetching, url):
    came, _ = fed(fetching, Feed(content=CONTENT[::-1]), offer("hub", url))
    assert (fetching.blob(came), came.lied) == (CONTENT, ["swarm"])


def test_part_of_a_feed_that_was_wrong_is_found_and_comes_again(fetching, url):
    feed = Feed(content=b"\0" * len(CONTENT), count=50_000, error=TransportError("stalled"))
    came, _ = fed(fetching, feed, offer("hub", url))
    assert (fetching.blob(came), came.lied) == (CONTENT, ["swarm"])


def test_nothing_is_fed_while_a_reader_waits_for_bytes_in_order(fetching, url):
    feed = Feed()
    fetching.control.wanted = lambda: (0,)
    came, _ = fed(fetching, feed, offer("hub", url))
    assert (feed.begun, came.fetched) == (0, {"hub": len(CONTENT)})
