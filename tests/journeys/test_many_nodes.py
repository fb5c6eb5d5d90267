"""Several machines of one site: what crosses their line to the hub, and what a wrong word costs."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from demohub import Hub
from harness.daemon import source
from simulators.scripted import Scripted, plain
from zhcache.client import Client

REPO, WEIGHTS, OTHER = "org/model", "unet/model.safetensors", "vae/model.safetensors"
BYTES = random.Random(5).randbytes(18 * 2**20 + 5)
FILES = {
    "model_index.json": b'{"_class_name": "T"}',
    "unet/config.json": b"{}",
    WEIGHTS: BYTES[: 16 * 2**20],
    OTHER: BYTES[16 * 2**20 :],
}
LARGE = len(BYTES)
SERVE = '[serve]\nlisten = "127.0.0.1:0"\n'


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as started:
        started.add(REPO, FILES)
        yield started


@pytest.fixture(autouse=True)
def from_here(hub):
    hub.clear_log()
    yield
    hub.heal()


def table(name, kind, url):
    return f'[[source]]\nname = "{name}"\nkind = "{kind}"\nendpoint = "{url}"\n'


def gateway_of(daemon):
    with Client(daemon.socket) as client:
        return client.gateway().url


def listings(hub):
    return sum("/tree/" in request.path for request in hub.requests)


def large_bytes(hub):
    return hub.sent(WEIGHTS) + hub.sent(OTHER)


def check_held(daemon):
    path = Path(daemon.json("path", REPO)["path"])
    assert {name: (path / name).read_bytes() for name in FILES} == FILES


def test_site_behind_gateways_lists_a_model_once_and_fetches_it_once(hub, make_daemon):
    gateway = make_daemon(source(hub) + SERVE, name="gateway").start()
    # Slow enough that all are there before it is over.
    hub.fault("line", rate=16 * 2**20)
    nodes, above = [], gateway
    for number in range(3):
        config = table("gateway", "huggingface", gateway_of(above)) + SERVE
        nodes.append(make_daemon(config, name=f"node-{number}").start())
        # The last one's gateway has a gateway itself.
        above = nodes[0] if number == 1 else gateway
    with ThreadPoolExecutor(len(nodes)) as asking:
        done = list(asking.map(lambda node: node.json("prefetch", REPO), nodes))
    assert [set(one["sources"]) for one in done] == [{"gateway"}] * 3
    assert listings(hub) == 1
    # What one connection has on the way as another takes over is sent in vain: buffers, no copy.
    assert LARGE <= large_bytes(hub) < 1.5 * LARGE
    for node in nodes:
        check_held(node)


@pytest.mark.slow
def test_peer_that_sends_slower_than_the_hub_still_spares_the_line(hub, make_daemon):
    first = make_daemon(source(hub) + SERVE + 'rate = "12MiB"\n', name="first").start()
    first.json("prefetch", REPO)
    hub.clear_log()
    second = make_daemon(table("peer", "peer", gateway_of(first)) + source(hub), name="second")
    done = second.start().json("prefetch", REPO)
    assert (done["sources"]["peer"] >= LARGE, large_bytes(hub)) == (True, 0)
    check_held(second)


def test_word_of_a_peer_that_is_no_longer_true_costs_one_404_for_each_file(hub, make_daemon):
    def answers(asked):
        split = urlsplit(asked.path)
        if split.path.endswith("/blobs"):
            (digests,) = parse_qs(split.query)["sha256"]
            sizes = dict.fromkeys(digests.split(","), 1)
            return [plain(json.dumps({"sizes": sizes}).encode())]
        return [plain(b"", "404 Not Found")]

    with Scripted(answers) as peer:
        node = make_daemon(table("peer", "peer", peer.url) + source(hub)).start()
        done = node.json("prefetch", REPO)
        blobs = [urlsplit(one.path).path for one in peer.asked if "/v1/blobs/" in one.path]
    assert len(blobs) == len(set(blobs)) == 2
    assert set(done["sources"]) == {"hub"}
    check_held(node)


def near(url):
    return table("gateway", "huggingface", url) + "near = true\n"


@pytest.fixture
def gateway(hub, make_daemon):
    return make_daemon(source(hub) + SERVE, name="gateway").start()


def test_hub_behind_a_near_gateway_is_not_asked(hub, gateway, make_daemon):
    hub.fault("line", rate=32 * 2**20)
    node = make_daemon(near(gateway_of(gateway)) + source(hub)).start()
    done = node.json("prefetch", REPO)
    assert set(done["sources"]) == {"gateway"}
    assert (listings(hub), done["trust"]) == (1, "first-use")
    check_held(node)


def test_near_gateway_that_cannot_be_reached_or_says_no_leaves_it_to_the_hub(hub, make_daemon):
    with Scripted(lambda _: [plain(b"", "404 Not Found")]) as gateway:
        node = make_daemon(near(gateway.url) + source(hub)).start()
        assert set(node.json("prefetch", REPO, "--include", "*.json")["sources"]) == {"hub"}
    done = node.json("prefetch", REPO)
    assert done["sources"]["hub"] >= LARGE
    check_held(node)


@pytest.mark.slow
def test_near_gateway_that_dies_in_the_middle_is_stood_in_for(hub, gateway, make_daemon):
    hub.fault("line", rate=8 * 2**20)
    node = make_daemon(near(gateway_of(gateway)) + source(hub)).start()
    prefetch = node.popen("prefetch", REPO, "--json")
    assert hub.wait_for(lambda log: sum(r.sent for r in log if r.file == WEIGHTS) > 4 * 2**20)
    gateway.kill()
    hub.heal()
    said, failed = prefetch.communicate(timeout=60)
    assert prefetch.returncode == 0, (said, failed, node.tail())
    done = json.loads(said.splitlines()[-1])
    assert done["sources"]["gateway"] > 0
    assert done["sources"]["hub"] > 0
    # Asked once, for both files.
    assert listings(hub) == 2
    check_held(node)
