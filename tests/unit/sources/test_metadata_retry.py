"""A passing fault of a listing is asked about again; a lasting one is not."""

import gzip

import pytest

from demohub import Hub
from zhcached.errors import RemoteInvalid, StatusError, TransportError
from zhcached.sources.listing import MAX_PAGE_BYTES, decode
from zhcached.sources.metadata import MAX_ASKED_WAIT_S, Conversation
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport


@pytest.fixture
def ask(hub: Hub):
    hub.add("org/name", {"config.json": b"{}"})
    transport = Transport(AddressPolicy.of([hub.url]))
    rested: list[float] = []

    one = Conversation(transport, "hub", 30.0, rest=rested.append)

    def get(meaning=lambda answer: answer.body, *, anew=True):
        talk = Conversation(transport, "hub", 30.0, rest=rested.append) if anew else one
        return talk.read(f"{hub.url}/api/models/org/name", None, meaning)

    get.rested = rested
    yield get
    transport.close()


def document(answer):
    return decode(answer.body, dict, source="hub", what="a model")


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


def test_garbled_answer_is_asked_for_once_more(hub, ask):
    hub.fault("status", plane="meta", times=1, status=200, body=b'{"sha": ')
    assert ask(document)["sha"]
    assert len(ask.rested) == 1
    hub.fault("status", plane="meta", status=200, body=b"<html>")
    with pytest.raises(RemoteInvalid):
        ask(document)
    assert len(hub.requests) == 4


def test_each_request_of_a_conversation_may_be_garbled_once(hub, ask):
    for _ in range(2):
        hub.fault("status", plane="meta", times=1, status=200, body=b"<html>")
        assert ask(document, anew=False)["sha"]


def test_packed_answer_is_unpacked_as_far_as_an_answer_may_be_long(hub, ask):
    def packed(content):
        hub.heal()
        answer = {"body": gzip.compress(content), "headers": {"Content-Encoding": "gzip"}}
        hub.fault("status", plane="meta", status=200, **answer)

    packed(b'{"sha": 1}')
    assert ask(document) == {"sha": 1}
    packed(bytes(MAX_PAGE_BYTES + 1))
    with pytest.raises(RemoteInvalid, match="longer"):
        ask()


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
