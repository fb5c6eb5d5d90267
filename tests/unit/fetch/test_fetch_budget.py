"""A spent request budget: no connection asks before it is renewed, and others take over."""

import threading

import pytest

from demohub import Hub
from harness.daemon import until
from harness.fetchkit import content_of, offer
from zhcache.errors import SourcesFailed
from zhcached.clock import SystemClock
from zhcached.transport.address import Origin
from zhcached.transport.quota import Quotas

ONE, TWO = content_of(200_000, seed=1), content_of(200_000, seed=2)


@pytest.fixture
def served(hub):
    hub.add("org/name", {"one.bin": ONE, "two.bin": TWO})
    return hub


def at(hub, path):
    return offer(hub.name, f"{hub.url}/org/name/resolve/main/{path}")


def spent(hub, seconds, **options):
    headers = {"RateLimit": f'"resolvers";r=0;t={seconds}'}
    hub.fault("status", plane="bytes", status=429, headers=headers, **options)


def test_budget_that_one_download_finds_spent_holds_for_all(served, fetching):
    spent(served, 1, times=1)
    quotas = Quotas(SystemClock())
    shared = fetching.transport(served.url, quotas=quotas)

    def bring(content, path):
        fetching.obtain(content, [at(served, path)], transport=shared)

    first = threading.Thread(target=bring, args=(ONE, "one.bin"))
    first.start()
    # That it was answered is not yet that the answer was read.
    until(lambda: quotas.closed_s(Origin.parse(served.url)) > 0, "the refusal is known")
    bring(TWO, "two.bin")
    first.join(20)
    refused, *later = [request.time for request in served.requests]
    assert len(later) == 2
    assert min(later) >= refused + 0.95


def test_another_source_takes_over_at_once(served, fetching):
    spent(served, 300)
    with Hub(name="other") as other:
        other.add("org/name", {"one.bin": ONE})
        offers = [at(served, "one.bin"), at(other, "one.bin")]
        shared = fetching.transport(served.url, other.url, quotas=Quotas(SystemClock()))
        came = fetching.obtain(ONE, offers, transport=shared)
    assert came.fetched == {"other": len(ONE)}
    assert len(served.requests) == 1


def test_sole_source_that_wants_nothing_for_an_hour_is_given_up_at_once(served, fetching):
    spent(served, 999_999)
    shared = fetching.transport(served.url, quotas=Quotas(SystemClock()))
    with pytest.raises(SourcesFailed) as caught:
        fetching.obtain(ONE, [at(served, "one.bin")], transport=shared)
    assert "asked for no requests for another 3600 s" in str(caught.value)
    assert len(served.requests) == 1
