"""One budget for each origin: learnt from answers, and no request while it is spent."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demohub import Hub
from harness.storekit import Clock
from zhcached.errors import LimitedError
from zhcached.transport.address import AddressPolicy, Origin
from zhcached.transport.http import Target, Transport
from zhcached.transport.message import Headers
from zhcached.transport.quota import (
    MAX_ORIGINS,
    MAX_UNSTATED_WAIT_S,
    MAX_WAIT_S,
    Quotas,
    Stated,
    stated,
)

HUB = Origin("https", "hub.example", 443)
CDN = Origin("https", "cdn.example", 443)


@pytest.fixture
def clock():
    return Clock(wall=1_800_000_000.0)


@pytest.fixture
def quotas(clock):
    return Quotas(clock)


def learn(quotas, status=200, origin=HUB, purpose="words", **fields):
    named = [(name.replace("_", "-"), value) for name, value in fields.items()]
    quotas.learn(origin, purpose, status, Headers(named))


def closed(quotas, purpose="words", origin=HUB):
    return quotas.closed_s(origin, purpose)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"api";r=0;t=55', [Stated("api", 0, 55.0)]),
        ("api; t=55; r=499", [Stated("api", 499, 55.0)]),
        ('"burst";r=1;t=1, "day";r=9;t=86400', [Stated("burst", 1, 1.0), Stated("day", 9, 3600.0)]),
        ('"api";r=0;t=999999999999', [Stated("api", 0, MAX_WAIT_S)]),
        ('"api";r=0;t=9999999999999', []),
        ('"api";r=-1;t=55', []),
        ('"api";r=0.5;t=55', []),
        ('"api";r=0;t=nan', []),
        ('"api";r=0', []),
        ("limit=100, remaining=0, reset=55", []),
        ('"a";r=0;t=5' + " " * 2000, []),
        ("\x00\xff", []),
        ("", []),
    ],
)
def test_budget_is_read_strictly(text, expected):
    assert stated(Headers([("RateLimit", text)])) == expected


@given(
    st.text(max_size=80), st.text(max_size=80), st.text(max_size=80), st.sampled_from([200, 429])
)
def test_no_header_closes_an_origin_for_more_than_an_hour(limit, policy, retry, status):
    quotas = Quotas(Clock())
    learn(quotas, status, RateLimit=limit, RateLimit_Policy=policy, Retry_After=retry)
    assert 0 <= closed(quotas) <= MAX_WAIT_S


def test_spent_budget_lets_no_request_through_until_it_is_renewed(quotas, clock):
    learn(quotas, 429, RateLimit='"api";r=0;t=55')
    with pytest.raises(LimitedError) as caught:
        quotas.admit(HUB, "words")
    assert caught.value.status == 429
    assert caught.value.retry_after_s == 55.0
    assert caught.value.place == str(HUB)
    quotas.admit(CDN, "bytes")
    clock.pass_s(55.1)
    quotas.admit(HUB, "words")


def test_requests_sent_since_the_last_answer_count(quotas):
    learn(quotas, RateLimit='"api";r=3;t=60')
    for _ in range(3):
        quotas.admit(HUB, "words")
    with pytest.raises(LimitedError):
        quotas.admit(HUB, "words")
    # An answer that was on its way knows nothing of what was sent since.
    learn(quotas, RateLimit='"api";r=2;t=60')
    assert closed(quotas) == 60.0


def test_renewed_budget_counts_anew(quotas, clock):
    learn(quotas, RateLimit='"api";r=1;t=10')
    quotas.admit(HUB, "words")
    clock.pass_s(11)
    learn(quotas, RateLimit='"api";r=499;t=300')
    assert closed(quotas) == 0
    assert not quotas.is_low(HUB)


def test_listings_and_files_have_accounts_of_their_own_where_the_hub_says_so(quotas):
    learn(quotas, purpose="bytes", RateLimit='"resolvers";r=2000;t=200')
    learn(quotas, 429, RateLimit='"api";r=0;t=55')
    assert closed(quotas, "words") == 55.0
    assert closed(quotas, "bytes") == 0
    learn(quotas, 429, Retry_After="70")
    assert closed(quotas, "bytes") == 70.0


def test_account_of_files_is_taken_to_be_the_same_until_they_were_asked_for(quotas):
    learn(quotas, 429, RateLimit='"api";r=0;t=55')
    assert closed(quotas, "bytes") == 55.0


def test_retry_after_may_be_a_date(quotas, clock):
    learn(quotas, 429, Retry_After="Fri, 15 Jan 2027 08:01:40 GMT")
    assert closed(quotas) == 100.0


@pytest.mark.parametrize("asked", ["1000000000", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_wait_without_end_is_an_hour(quotas, asked):
    learn(quotas, 429, Retry_After=asked)
    assert closed(quotas) == MAX_WAIT_S


@pytest.mark.parametrize("fields", [{}, {"Retry_After": "0"}, {"Retry_After": "soon"}])
def test_refusal_without_a_time_is_waited_for_longer_each_time(quotas, clock, fields):
    waited = []
    for _ in range(9):
        learn(quotas, 429, **fields)
        waited.append(closed(quotas))
        clock.pass_s(waited[-1])
    assert waited == [1, 2, 4, 8, 16, 32, MAX_UNSTATED_WAIT_S, 60, 60]
    learn(quotas, 200)
    learn(quotas, 429, **fields)
    assert closed(quotas) == 1


def test_budget_is_low_at_a_tenth_of_the_window(quotas):
    policy = {"RateLimit_Policy": '"fixed window";"api";q=500;w=300'}
    learn(quotas, RateLimit='"api";r=51;t=60', **policy)
    assert not quotas.is_low(HUB)
    learn(quotas, RateLimit='"api";r=50;t=60', **policy)
    assert quotas.is_low(HUB)
    assert not quotas.is_low(CDN)


def test_origins_without_end_are_forgotten(quotas):
    for number in range(2 * MAX_ORIGINS):
        learn(quotas, 429, Origin("https", f"h{number}.example", 443), Retry_After=str(number))
    known = [
        n
        for n in range(2 * MAX_ORIGINS)
        if closed(quotas, origin=Origin("https", f"h{n}.example", 443))
    ]
    assert len(known) == MAX_ORIGINS
    assert known[-1] == 2 * MAX_ORIGINS - 1


def test_hub_that_refuses_once_hears_of_no_thread_again(hub: Hub):
    hub.add("org/name", {"config.json": b"{}"})
    hub.fault("status", plane="meta", status=429, headers={"RateLimit": '"api";r=0;t=55'})
    transport = Transport(AddressPolicy.of([hub.url]), quotas=Quotas(Clock()))
    target = Target(f"{hub.url}/api/models/org/name")
    with transport.open(target) as response:
        assert response.status == 429
    refused = []

    def ask():
        try:
            transport.open(target).close()
        except LimitedError as error:
            refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    transport.close()
    assert len(refused) == 8
    assert len(hub.requests) == 1


def test_spent_hub_does_not_stop_what_its_data_plane_sends():
    with Hub(name="hub") as hub, Hub(name="cdn") as cdn:
        hub.add("org/name", {"model.safetensors": b"x" * 1000}, data_hub=cdn)
        quotas = Quotas(Clock())
        transport = Transport(AddressPolicy.of([hub.url, cdn.url]), quotas=quotas)
        target = Target(f"{hub.url}/org/name/resolve/main/model.safetensors")
        with transport.open(target, headers={"Range": "bytes=0-9"}) as response:
            located = Target(response.url)
            response.read_limited(100)
        quotas.rest(Origin.parse(hub.url), 60)
        with transport.open(located, headers={"Range": "bytes=10-19"}) as response:
            assert response.read_limited(100) == b"x" * 10
        with pytest.raises(LimitedError):
            transport.open(target, headers={"Range": "bytes=10-19"})
        transport.close()
