"""Stores of the site that answer as no sound one does: the file comes from the hub all the same."""

import pytest

from demohub.hub import Hub
from harness.gatewaykit import FILES, REPO, WEIGHTS, Front
from harness.storekit import sha256
from simulators.scripted import HOLD, Scripted, part, plain
from zhcache.protocol.messages import PrefetchRequest
from zhcached.config import SourceConfig
from zhcached.jobs.asking.brief import prepare
from zhcached.jobs.control import Control
from zhcached.jobs.fetching.gather import Gathering
from zhcached.jobs.fetching.meter import Meter
from zhcached.sources import registry

PATH, DIGEST = "unet/model.safetensors", sha256(WEIGHTS)
SHORT = WEIGHTS[: len(WEIGHTS) // 2]
METADATA = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


def truncated(asked):
    if asked.range[0] >= len(SHORT):
        return [plain(b"<Code>InvalidRange</Code>", "416 Range Not Satisfiable")]
    return [part(SHORT, asked)]


def wrong_bytes(asked):
    return [part(WEIGHTS[::-1], asked)]


def shifted(asked):
    start, end = asked.range
    body, told = WEIGHTS[start + 1 : end + 1], f"bytes {start + 1}-{end}/{len(WEIGHTS)}"
    return [plain(body, "206 Partial Content", Content_Range=told)]


def whole(_asked):
    return [plain(WEIGHTS)]


def elsewhere(status):
    return lambda _asked: [plain(b"", status, Location=METADATA)]


def trickling(_asked):
    yield b"HTTP/1.1 206 Partial Content\r\n"
    for _ in range(100):
        yield 0.05
        yield b"X-Slow: 1\r\n"


def silent(asked):
    head, _, body = part(WEIGHTS, asked).partition(b"\r\n\r\n")
    return [head + b"\r\n\r\n" + body[:1000], HOLD]


def slow_down(_asked):
    return [plain(b"<Error><Code>SlowDown</Code></Error>", "503 Slow Down")]


def first_byte(asked):
    return [part(WEIGHTS, asked)]


def prefetched(tmp_path, hub, script, monkeypatch):
    """Fetches the model beside a store; returns what came from where, and who was disproved."""
    monkeypatch.setattr("zhcached.jobs.asking.holders.DEADLINE_S", 0.5)

    def answer(asked):
        # It is asked first for one byte, which it has.
        is_question = asked.range == (0, 1)
        return first_byte(asked) if is_question and script is not whole else script(asked)

    with Scripted(answer) as store:
        config = SourceConfig("store", "s3", store.url, bucket="models")
        with Front(tmp_path, [hub], also=[config]) as front:
            front.fetcher.tiers = registry.tiers([config], front.transport, {})
            disproved = []
            front.fetcher.disproved = lambda *told: disproved.append(told)
            request = PrefetchRequest(repo=REPO)
            brief = prepare(request, front.sources, front.health, {}, tiers=front.fetcher.tiers)
            control, meter = Control(lambda _: None, None), Meter(0, front.clock)
            gathering = Gathering(front.fetcher, brief, "job", control, meter)
            gathering.run()
            found = gathering.committed[PATH].sha256
            assert front.store.blobs.path(found).read_bytes() == WEIGHTS
            told = {info.name: info for info in front.health.report()}
            return gathering.fetched, disproved, told["store"], len(store.asked)


@pytest.mark.parametrize("script", [truncated, wrong_bytes])
def test_what_is_another_file_than_its_name_says_is_told_so_that_it_is_put_anew(
    tmp_path, hub, script, monkeypatch
):
    fetched, disproved, _, _ = prefetched(tmp_path, hub, script, monkeypatch)
    assert set(disproved) == {("store", DIGEST)}
    assert fetched["hub"] >= len(WEIGHTS)


@pytest.mark.parametrize(
    "script",
    [
        shifted,
        whole,
        elsewhere("301 Moved Permanently"),
        elsewhere("307 Temporary Redirect"),
        trickling,
        silent,
        slow_down,
    ],
    ids=["shifted", "whole", "301", "307", "trickling", "silent", "slow down"],
)
def test_store_that_does_not_send_ranges_costs_little_and_is_no_proof_against_its_bytes(
    tmp_path, hub, script, monkeypatch
):
    fetched, disproved, told, asked = prefetched(tmp_path, hub, script, monkeypatch)
    assert disproved == []
    assert fetched["hub"] >= len(WEIGHTS) - 1000
    assert asked < 12
    assert told.state in ("unknown", "down", "ok", "slow", "lying")
