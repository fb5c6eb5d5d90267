"""Pulling through: real hubs, a real store, real sockets."""

import http.client
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import FILES, REPO, WEIGHTS, Front
from harness.storekit import promise_of, publish
from zhcached.jobs.pulling import coming
from zhcached.store.snapshots import IMPORTED

LARGE = "unet/model.safetensors"


@pytest.fixture
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


@pytest.fixture
def front(tmp_path, hub):
    with Front(tmp_path / "store", [hub]) as front:
        yield front


def test_cold_then_warm_and_a_snapshot_in_the_end(front, hub):
    for path, content in FILES.items():
        cold, warm = front.get(path), front.get(path)
        assert (cold.status, cold.body, cold.cut) == (200, content, False)
        assert (warm.status, warm.body) == (200, content)
        assert hub.sent(path) == len(content)
    found = until(front.snapshot, "the snapshot is whole")
    assert (found.complete, found.left_out) == (True, {})
    assert {file.path for file in found.files} == set(FILES)


def test_an_import_of_that_commit_does_not_give_way_to_the_network(front, hub):
    commit = front.pulls.listed(front.repo, "main").commit
    mine = {**FILES, "unet/model.safetensors": b"a user's own"}
    publish(front.store, mine, repo=front.repo, commit=commit, ref="mine", source=IMPORTED)
    assert front.get(LARGE).body == WEIGHTS
    until(lambda: not front.pulls.running, "it was published, or not")
    (held,) = (f for f in front.snapshot("mine").files if f.path == LARGE)
    assert held.sha256 == promise_of(mine[LARGE]).sha256


def test_a_head_fetches_no_bytes(front, hub):
    answer = front.get(LARGE, method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(WEIGHTS)))
    assert front.pulls.running == 0
    assert hub.sent() == 0


def test_twenty_clients_at_once_cost_the_hub_one_file(front, hub):
    hub.fault("rate", rate=6 << 20, path=LARGE)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: front.get(LARGE), range(20)))
    assert all(answer.body == WEIGHTS for answer in answers)
    assert (hub.sent(LARGE), front.pulls.misses) == (len(WEIGHTS), 1)


def test_bytes_are_sent_as_they_come_and_the_last_are_withheld(front, hub):
    hub.fault("stall", path=LARGE, at=len(WEIGHTS) - 100, times=1)
    front.fetcher.config = front.download_with(stall=0.8, connections=1)
    line = front.connect()
    line.request("GET", f"/{REPO}/main/{LARGE}")
    answer = line.getresponse()
    early = answer.read(2 << 20)
    assert early == WEIGHTS[: 2 << 20]
    arrival = next(iter(front.pulls._arrivals._coming.values()))
    until(lambda: arrival.ingest().received_from(0) == len(WEIGHTS) - 100, "all but the end came")
    with arrival.read() as reader:
        assert reader.available(0) == len(WEIGHTS) - coming.WITHHELD
    assert early + answer.read() == WEIGHTS
    line.close()


def test_a_range_far_ahead_does_not_wait_for_the_rest(front, hub):
    big = random.Random(1).randbytes(12 << 20)
    hub.add("lab/big", {"big.safetensors": big})
    hub.fault("rate", rate=8 << 20, repo="lab/big")
    line = front.connect()
    line.request("GET", "/lab/big/main/big.safetensors")
    assert line.getresponse().read(100) == big[:100]
    start = len(big) - (1 << 20)
    answer = front.get("big.safetensors", repo="lab/big", Range=f"bytes={start}-{start + 999}")
    assert (answer.status, answer.body) == (206, big[start : start + 1000])
    # No stretch begins just there unless somebody waits for it.
    assert any((request.range or "").startswith(f"bytes={start}-") for request in hub.requests)
    line.close()


def test_a_part_of_a_snapshot_is_found_by_nobody_who_asks_for_the_branch(front, hub):
    front.get("model_index.json")
    part = until(lambda: front.published(front.repo), "it is published")
    assert (part.complete, front.snapshot("main")) == (False, None)
    assert list(part.left_out) == [LARGE]


def test_what_a_job_fetches_is_read_as_it_comes(front, hub):
    promise = promise_of(WEIGHTS)
    with front.fetcher.claims.hold(promise.key, lambda: None):
        ingest = front.store.intake.begin(promise, "job")
        front.fetcher.origins.bring(promise.sha256, promise.size, ingest.closed)
        ingest.write(0, WEIGHTS[: 1 << 20], "job's source")
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{LARGE}")
        answer = line.getresponse()
        early = answer.read(1 << 20)
        ingest.write(1 << 20, WEIGHTS[1 << 20 :], "job's source")
        ingest.commit()
    assert early + answer.read() == WEIGHTS
    assert hub.sent(LARGE) == 0
    line.close()


def test_what_a_job_fetched_and_others_brought_is_not_mixed(front, hub):
    # The job's bytes are wrong and never proven; then the file comes by the pull itself.
    promise = promise_of(WEIGHTS)
    with front.fetcher.claims.hold(promise.key, lambda: None):
        ingest = front.store.intake.begin(promise, "job")
        ingest.write(0, b"x" * (1 << 20), "job's source")
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{LARGE}")
        answer = line.getresponse()
        assert answer.read(1 << 20) == b"x" * (1 << 20)
        ingest.discard()
        ingest.close()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    line.close()
    assert front.get(LARGE, Range="bytes=1048576-").body == WEIGHTS


def test_a_file_that_comes_another_way_proves_nothing_of_what_was_sent(front, hub):
    promise = promise_of(WEIGHTS)
    with front.fetcher.claims.hold(promise.key, lambda: None):
        ingest = front.store.intake.begin(promise, "job")
        ingest.write(0, b"x" * (1 << 20), "job's source")
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{LARGE}")
        answer = line.getresponse()
        assert answer.read(1 << 20) == b"x" * (1 << 20)
        ingest.sync()
        ingest.close()
        front.store.intake.put(WEIGHTS, "import")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    line.close()


def test_a_client_that_leaves_does_not_end_the_fetch_for_others(front, hub):
    hub.fault("rate", rate=4 << 20, path=LARGE)
    with ThreadPoolExecutor(1) as pool:
        line = front.connect()
        line.request("GET", f"/{REPO}/main/{LARGE}")
        assert line.getresponse().read(100) == WEIGHTS[:100]
        other = pool.submit(front.get, LARGE)
        until(lambda: front.server.clients == 2, "both are there")
        line.close()
        assert other.result().body == WEIGHTS
    assert hub.sent(LARGE) == len(WEIGHTS)


def test_a_fetch_for_which_nobody_waits_is_stopped_and_kept(front, hub, monkeypatch):
    monkeypatch.setattr("zhcached.jobs.pulling.patience.GRACE_S", 0.1)
    hub.fault("rate", rate=1 << 20, path=LARGE)
    line = front.connect()
    line.request("GET", f"/{REPO}/main/{LARGE}")
    assert line.getresponse().read(100) == WEIGHTS[:100]
    line.close()
    until(lambda: front.pulls.running == 0, "the fetch was stopped")
    assert hub.sent(LARGE) < len(WEIGHTS)
    hub.heal()
    assert front.get(LARGE).body == WEIGHTS
    assert hub.sent(LARGE) < 2 * len(WEIGHTS)


def test_an_upstream_that_dies_and_comes_back(front, hub):
    hub.fault("cut", path=LARGE, at=1 << 20, times=1)
    hub.fault("status", path=LARGE, status=500, after=1)
    answer = front.get(LARGE)
    assert answer.cut and WEIGHTS.startswith(answer.body)
    hub.heal()
    front.forgive()
    rest = front.get(LARGE, Range=f"bytes={len(answer.body)}-")
    assert (rest.status, answer.body + rest.body) == (206, WEIGHTS)


def test_a_failure_before_the_first_byte_is_told(front, hub):
    assert front.get("model_index.json", method="HEAD").status == 200
    hub.fault("status", path=LARGE, status=500)
    answer = front.get(LARGE)
    assert answer.status == 502
    assert b"sources_failed" in answer.body
