"""Bytes that come in for a closed model, and whoever names their digest meanwhile."""

import http.client
import random
import threading

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import Front
from harness.storekit import publish
from zhcache.errors import Cancelled
from zhcache.protocol.messages import PrefetchRequest
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.gateway.routes import routes
from zhcached.jobs.asking.brief import prepare
from zhcached.jobs.control import Control
from zhcached.jobs.fetching.gather import Gathering
from zhcached.jobs.fetching.meter import Meter
from zhcached.jobs.pulling import possession

CLOSED, THIEF, HONEST = "lab/closed", "thief/model", "lab/other"
BYTES = random.Random(9).randbytes(4 * 2**20 + 3)
HALF = len(BYTES) // 2


@pytest.fixture
def hub():
    with Hub(name="hub") as hub:
        hub.add(CLOSED, {"w.safetensors": BYTES}, private=True, token="t0ken")
        hub.add(THIEF, {"a.safetensors": BYTES})
        hub.add(HONEST, {"b.safetensors": BYTES})
        hub.fault("zeros", path="a.safetensors")
        hub.fault("stall", path="w.safetensors", at=HALF, times=1)
        yield hub


class Job(threading.Thread):
    """A user of this machine fetches the closed model."""

    def __init__(self, front):
        super().__init__(daemon=True)
        brief = prepare(PrefetchRequest(repo=CLOSED), front.sources, front.health, {})
        self.control = Control(lambda _: None, None)
        meter = Meter(len(BYTES), front.clock)
        self.gathering = Gathering(front.fetcher, brief, "job", self.control, meter)
        self.start()
        until(lambda: half_is_here(front), "half of it is here")

    def run(self):
        try:
            self.gathering.run()
        except Cancelled:
            pass

    def end(self):
        self.join(30)
        assert not self.is_alive()


def half_is_here(front):
    (key,) = front.store.ingests.unfinished() or [""]
    ingest = front.store.ingests.opened(key)
    return ingest is not None and ingest.received.total >= HALF


@pytest.fixture
def front(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "t0ken")
    download = {"stall": 0.8, "connections": 1}
    with Front(tmp_path, [hub], source={"token_env": "HUB_TOKEN"}, download=download) as front:
        yield front


def asked(front, path, repo):
    """Has a client ask; returns its answer once it has one."""
    answers = []
    client = threading.Thread(target=lambda: answers.append(front.get(path, repo=repo)))
    client.start()
    until(lambda: front.pulls.running, "its fetch was begun")

    def answer():
        client.join(30)
        return answers[0]

    return answer


def test_who_names_their_digest_reads_nothing_along_and_gets_nothing_after(front):
    job = Job(front)
    answer = asked(front, "a.safetensors", THIEF)
    job.end()
    assert (answer().status, answer().body[:9]) == (404, b'{"error":')
    assert front.get("a.safetensors", repo=THIEF).status == 404
    assert front.published(front.repo) is None


def test_who_has_shown_to_have_them_gets_them_once_they_are_proven(front, hub):
    job = Job(front)
    answer = asked(front, "b.safetensors", HONEST)
    job.end()
    assert answer().body == BYTES
    assert hub.sent("b.safetensors") == possession.STRETCH


def test_what_was_left_of_them_is_not_shown_to_who_goes_on_with_it(front):
    job = Job(front)
    job.control.cancelled.set()
    job.end()
    answer = front.get("a.safetensors", repo=THIEF)
    assert BYTES[:1000] not in answer.body
    assert answer.status != 200


def test_they_are_read_along_where_the_model_is_entitled(tmp_path, hub, front):
    entitled = {"entitled": (CLOSED,), "source": {"token_env": "HUB_TOKEN"}}
    entitled["download"] = {"stall": 0.8, "connections": 1}
    with Front(tmp_path / "entitled", [hub], **entitled) as other:
        hub.heal()
        hub.fault("stall", path="w.safetensors", at=HALF, times=1)
        Job(other)
        line = other.connect()
        line.request("GET", f"/{CLOSED}/main/w.safetensors")
        answer = line.getresponse()
        assert answer.read(1000) == BYTES[:1000]
        assert answer.read() == BYTES[1000:]
        line.close()


@pytest.fixture
def neighbour(tmp_path, monkeypatch):
    """A machine that gives a closed model to whoever may ask it, as its owner wants."""
    monkeypatch.setattr("harness.gatewaykit.routes", routes)
    with Front(tmp_path / "neighbour", [], entitled=(CLOSED,)) as front:
        files = {"w.safetensors": BYTES}
        publish(front.store, files, repo=parse_repo(CLOSED), source="hub", private=True)
        yield SourceConfig("peer", "peer", f"http://127.0.0.1:{front.port}")


@pytest.mark.parametrize(
    ("repo", "path", "is_given"),
    [(THIEF, "a.safetensors", False), (HONEST, "b.safetensors", True)],
)
def test_what_a_peer_gives_to_this_machine_by_digest_is_not_passed_on_to_all(
    tmp_path, hub, neighbour, repo, path, is_given
):
    with Front(tmp_path / "front", [hub], also=[neighbour]) as front:
        line = front.connect()
        line.request("GET", f"/{repo}/resolve/main/{path}")
        answer = line.getresponse()
        try:
            body = answer.read()
        except http.client.IncompleteRead as cut:
            body = cut.partial
        line.close()
        assert (body == BYTES, body[:1000] == BYTES[:1000]) == (is_given, is_given)
        # The hub has shown it by less than the whole.
        assert not is_given or hub.sent(path) == possession.STRETCH
