"""What a machine brings for itself, read by its peers as it comes."""

import http.client
import json
import threading

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import REPO, WEIGHTS, Front
from harness.storekit import promise_of, sha256
from simulators.scripted import HOLD, Scripted, plain
from zhcache.protocol.messages import PrefetchRequest
from zhcached.config import SourceConfig
from zhcached.fetch.limits import RateLimiter
from zhcached.fetch.nearby import rank
from zhcached.gateway.routes import routes
from zhcached.jobs.asking.brief import prepare
from zhcached.jobs.control import Control
from zhcached.jobs.fetching.gather import Gathering
from zhcached.jobs.fetching.meter import Meter
from zhcached.jobs.fetching.sharing import KEEP_S, Origins
from zhcached.jobs.pulling.pull import Here
from zhcached.store.ingest import Ingest

DIGEST = sha256(WEIGHTS)
OPEN, CLOSED = frozenset[str](), frozenset({"lab/closed"})


@pytest.fixture
def front(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.gatewaykit.routes", routes)
    with Front(tmp_path, [], entitled=("lab/entitled",)) as front:
        yield front


@pytest.fixture
def begun(front):
    """Begins to bring the weights; half of them are here."""
    made: list[Ingest] = []

    def begin(closed=None, *, is_shown=True):
        ingest = front.store.intake.begin(promise_of(WEIGHTS), "job", closed)
        made.append(ingest)
        if is_shown:
            front.fetcher.origins.bring(DIGEST, len(WEIGHTS), ingest.closed)
        ingest.write(0, WEIGHTS[: 1 << 20], "hub")
        return ingest

    yield begin
    for ingest in made:
        ingest.close()


def ask(front, path):
    line = front.connect()
    line.request("GET", f"/zhcache/v1/{path}")
    return line.getresponse()


def told(front):
    return json.load(ask(front, f"blobs?sha256={DIGEST}"))


def test_it_is_told_and_read_as_it_comes_and_caches_are_told_not_to_keep_it(front, begun):
    ingest = begun()
    assert told(front)["sizes"] == {}
    assert told(front)["coming"] == {DIGEST: len(WEIGHTS)}
    assert told(front)["node"] == front.fetcher.origins.node
    # Under this path a cache would keep what may yet be taken back.
    assert ask(front, f"blobs/{DIGEST}").status == 404
    answer = ask(front, f"coming/{DIGEST}")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.read(1 << 20) == WEIGHTS[: 1 << 20]
    ingest.write(1 << 20, WEIGHTS[1 << 20 :], "hub")
    ingest.commit()
    assert answer.read() == WEIGHTS[1 << 20 :]


def test_it_is_given_after_its_end_though_no_snapshot_has_it_yet(front, begun):
    ingest = begun()
    ingest.write(1 << 20, WEIGHTS[1 << 20 :], "hub")
    ingest.commit()
    front.fetcher.origins.end(DIGEST, len(WEIGHTS), OPEN)
    assert told(front)["coming"] == {DIGEST: len(WEIGHTS)}
    assert ask(front, f"coming/{DIGEST}").read() == WEIGHTS
    front.fetcher.origins.end(DIGEST, len(WEIGHTS), CLOSED)
    assert told(front)["coming"] == {}


def test_who_reads_what_is_given_up_is_told_that_it_ends(front, begun):
    ingest = begun()
    answer = ask(front, f"coming/{DIGEST}")
    answer.read(1000)
    ingest.sync()
    ingest.close()
    front.fetcher.origins.drop(DIGEST)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    assert ask(front, f"coming/{DIGEST}").status == 404


@pytest.mark.parametrize(
    ("closed", "is_shown", "status"),
    [("lab/closed", True, 404), ("lab/entitled", True, 200), (None, False, 404)],
    ids=["closed", "entitled", "read from a peer itself"],
)
def test_what_is_closed_or_comes_from_a_peer_is_not_shown(front, begun, closed, is_shown, status):
    begun(closed, is_shown=is_shown)
    assert bool(told(front)["coming"]) == (status == 200)
    assert ask(front, f"coming/{DIGEST}").status == status


def test_what_was_to_come_from_a_peer_is_shown_to_none_before_it_is_whole(tmp_path):
    # Else two machines that read it from each other would wait for ever.
    def answers(asked):
        if "/blobs?" in asked.path:
            said = {"sizes": {}, "coming": {DIGEST: len(WEIGHTS)}, "node": "other"}
            return [plain(json.dumps(said).encode())]
        return [HOLD] if "/coming/" in asked.path else [plain(b"", "404 Not Found")]

    with Hub(name="hub") as hub, Scripted(answers) as peer:
        hub.add(REPO, {"w.safetensors": WEIGHTS})
        hub.fault("rate", rate=6 << 20)
        config = SourceConfig("peer", "peer", peer.url)
        with Front(tmp_path, [hub], also=[config]) as front:
            brief = prepare(PrefetchRequest(repo=REPO), front.sources, front.health, {})
            control, meter = Control(lambda _: None, None), Meter(0, front.clock)
            gathering = Gathering(front.fetcher, brief, "job", control, meter)
            job = threading.Thread(target=gathering.run)
            job.start()
            until(lambda: hub.sent("w.safetensors"), "the hub stands in for the peer")
            assert any("/coming/" in asked.path for asked in peer.asked)
            assert front.pulls.shown(DIGEST) is None
            job.join(30)
            assert isinstance(front.pulls.shown(DIGEST), Here)


def test_under_a_limit_of_this_machine_nothing_is_shown(front, begun):
    begun()
    front.fetcher.limiter = RateLimiter(1000)
    assert told(front)["coming"] == {}


def test_what_came_is_shown_for_a_while_and_what_did_not_is_not(front):
    class Clock:
        now = 5.0

        def monotonic(self):
            return self.now

    clock = Clock()
    origins = Origins(clock)
    origins.bring("a", 1, OPEN)
    origins.end("b", 1, OPEN)
    origins.bring("c", 1, OPEN)
    origins.drop("c")
    assert [bool(origins.shown(name)) for name in "abc"] == [True, True, False]
    clock.now += KEEP_S + 1
    assert [bool(origins.shown(name)) for name in "abc"] == [True, False, False]


def test_each_file_is_begun_by_one_machine_and_the_files_are_spread_over_all():
    nodes = ["a1", "b2", "c3"]
    first = []
    for number in range(60):
        digest = sha256(bytes([number]))
        ranks = {own: rank(digest, own, {*nodes} - {own}) for own in nodes}
        assert sorted(ranks.values()) == [0, 1, 2]
        first += [own for own, place in ranks.items() if place == 0]
    assert min(first.count(own) for own in nodes) >= 10
