"""A passing fault of a listing is asked about again; a lasting one is not."""

import pytest

from demohub import Hub
from zhcached.errors import StatusError, TransportError
from zhcached.sources.metadata import MAX_ASKED_WAIT_S, Conversation
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport


@pytest.fixture
def ask(hub: Hub):
    hub.add("org/name", {"config.json": b"{}"})
    transport = Transport(AddressPolicy.of([hub.url]))
    rested: list[float] = []

    def get():
        talk = Conversation(transport, "hub", 30.0, rest=rested.append)
        return talk.get(f"{hub.url}/api/models/org/name").body

    get.rested = rested
    yield get
    transport.close()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("status", {"status": 503}),
        ("status", {"status": 429, "headers": {"Retry-After": "3"}}),
    ],
)
def test_passing_fault_is_survived(hub, ask, kind, options):
    hub.fault(kind, plane="meta", times=1, **options)
    assert b'"sha"' in ask()
    assert len(ask.rested) == 1
    asked = float(options.get("headers", {}).get("Retry-After", 0))
    assert ask.rested[0] >= asked


def test_lasting_fault_is_told_after_three_requests(hub, ask):
    hub.fault("status", plane="meta", status=503)
    with pytest.raises(StatusError):
        ask()
    assert len(hub.requests) == 3


def test_wait_that_is_too_long_is_not_waited(hub, ask):
    wait = {"Retry-After": str(int(MAX_ASKED_WAIT_S) + 1)}
    hub.fault("status", plane="meta", status=429, headers=wait)
    with pytest.raises(StatusError):
        ask()
    assert ask.rested == []


def test_nobody_listening_is_not_asked_again(hub, ask):
    hub.stop()
    with pytest.raises(TransportError):
        ask()
    assert ask.rested == []
