"""Clients that come back for the rest of a file whose beginning was never proven."""

import http.client

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import FILES, REPO, WEIGHTS, Front
from harness.storekit import Clock, open_store, promise_of
from zhcached.jobs.pulling.doubts import Doubts

LARGE = "unet/model.safetensors"
MIB = 1 << 20
PROMISE = promise_of(WEIGHTS)
REST = {"Range": f"bytes={MIB}-"}


@pytest.fixture
def front(tmp_path):
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        with Front(tmp_path / "store", [hub], store={"keep_partial": 0.0}) as front:
            yield front


def receive_wrong_beginning(front):
    ingest = front.store.intake.begin(PROMISE, "job")
    ingest.write(0, b"x" * MIB, "job's source")
    return ingest


def keep(ingest):
    ingest.sync()
    ingest.close()


def test_the_rest_of_a_file_that_came_another_way_is_not_given(front):
    with front.fetcher.claims.hold(PROMISE.key, lambda: None):
        ingest = receive_wrong_beginning(front)
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{LARGE}")
        answer = line.getresponse()
        assert answer.read(MIB) == b"x" * MIB
        keep(ingest)
        front.store.intake.put(WEIGHTS, "import")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    line.close()
    rest = front.get(LARGE, **REST)
    assert (rest.status, rest.body) == (200, WEIGHTS)


def test_the_rest_is_not_given_once_the_beginning_was_cleared_away(front):
    keep(receive_wrong_beginning(front))
    front.store.gc()
    assert not front.store.ingests.is_left(PROMISE.key)
    rest = front.get(LARGE, **REST)
    assert (rest.status, rest.body) == (200, WEIGHTS)


def test_the_rest_of_a_blob_that_was_found_damaged_is_not_given(front):
    assert front.get(LARGE).body == WEIGHTS
    blob = front.store.blobs.path(PROMISE.sha256)
    until(lambda: front.pulls.running == 0, "it is a blob")
    blob.chmod(0o600)
    blob.write_bytes(b"x" * MIB + WEIGHTS[MIB:])
    rest = front.get(LARGE, **REST)
    assert (rest.status, rest.body) == (200, WEIGHTS)


def test_how_long_a_file_is_in_doubt(tmp_path):
    clock = Clock()
    store = open_store(tmp_path / "store", clock)
    for content in (WEIGHTS, b"other"):
        ingest = store.intake.begin(promise_of(content), "job")
        ingest.write(0, content[:1], "hub")
        keep(ingest)
    lied, unfinished = PROMISE.key, promise_of(b"other").key
    # Never closed, as after a kill.
    Doubts(store, clock).add(lied)
    doubts = Doubts(store, clock)
    assert doubts.has(lied) and doubts.has(unfinished)
    clock.pass_s(2 * 3600)
    assert doubts.has(lied) and not doubts.has(unfinished)
    clock.pass_s(24 * 3600)
    assert not doubts.has(lied)
    store.close()


def test_what_is_taken_back_while_a_client_waits_for_the_rest(front):
    with front.fetcher.claims.hold(PROMISE.key, lambda: None):
        keep(receive_wrong_beginning(front))
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{LARGE}", headers=REST)
        until(lambda: [a for a in front.pulls._arrivals._coming.values() if a._waiting], "it waits")
        ingest = front.store.intake.begin(PROMISE, "job")
        ingest.discard()
        ingest.write(0, WEIGHTS, "another source")
        ingest.commit()
    assert line.getresponse().status == 503
    line.close()
    assert front.get(LARGE, **REST).body == WEIGHTS
