"""A file from an S3 store and a hub at once: the store's bytes are held to the promise too."""

import hashlib

import pytest

from harness.fetchkit import MIB, long_content, offer
from simulators.s3 import KEY, S3, SECRET
from simulators.scripted import Scripted, part
from zhcached.config import SourceConfig
from zhcached.fetch.download import Offer
from zhcached.sources.s3 import S3Source

CONTENT = long_content(24 * MIB)


@pytest.fixture
def s3():
    with S3() as started:
        yield started


@pytest.fixture
def hub():
    """A sound server that sends at the rate of a slow line, and counts."""

    def answer(asked):
        start, end = asked.range
        hub.sent += end - start
        hub.ranges.append((start, end))
        head, _, body = part(CONTENT, asked).partition(b"\r\n\r\n")
        yield head + b"\r\n\r\n"
        for at in range(0, len(body), MIB):
            yield body[at : at + MIB]
            yield 0.02

    with Scripted(answer) as hub:
        hub.sent, hub.ranges = 0, []
        yield hub


def store_offer(s3, transport, environ=None):
    config = SourceConfig(
        "store", "s3", s3.url, bucket="models", key_env="S3_KEY", secret_env="S3_SECRET"
    )
    environ = environ or {"S3_KEY": KEY, "S3_SECRET": SECRET}
    tier = S3Source(config, transport=transport, environ=environ)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Offer("store", lambda: tier.locate_blob(digest), rate=60.0 * MIB)


@pytest.mark.slow
def test_each_range_has_a_signature_of_its_own_and_both_bring_a_part(fetching, s3, hub):
    digest = s3.put(CONTENT)
    s3.rate = 40 * MIB
    transport = fetching.transport(s3.url, hub.url)
    offers = [store_offer(s3, transport), offer("hub", hub.url + "/f", rate=40.0 * MIB)]
    got = fetching.obtain(CONTENT, offers, transport=transport)
    assert fetching.blob(got) == CONTENT
    assert set(got.fetched) == {"store", "hub"}
    assert s3.sent(digest) + hub.sent >= len(CONTENT)
    assert not got.lied


def test_spoilt_ranges_are_found_and_those_alone_come_again_from_the_hub(fetching, s3, hub):
    digest = s3.put(CONTENT)
    s3.objects[s3.name(digest)] = bytes(len(CONTENT))
    s3.rate = 40 * MIB
    transport = fetching.transport(s3.url, hub.url)
    offers = [store_offer(s3, transport), offer("hub", hub.url + "/f", rate=40.0 * MIB)]
    got = fetching.obtain(CONTENT, offers, transport=transport)
    assert fetching.blob(got) == CONTENT
    assert got.lied == ["store"]
    # The hub sent each of its bytes once, whichever part of the file it had from the beginning.
    assert hub.sent < len(CONTENT) + 2 * MIB


def test_key_that_is_lost_in_between_leaves_the_file_to_the_hub(fetching, s3, hub):
    s3.put(CONTENT)
    transport = fetching.transport(s3.url, hub.url)
    offers = [store_offer(s3, transport, {"S3_KEY": KEY}), offer("hub", hub.url + "/f")]
    got = fetching.obtain(CONTENT, offers, transport=transport)
    assert got.fetched == {"hub": len(CONTENT)}
    assert "given up" in fetching.kinds("store") or "switch" in fetching.kinds("store")
