"""A swarm of machines on loopback: real daemons, real libtorrent."""

import random
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import source, until
from harness.swarmkit import Machine, peer

pytest.importorskip("libtorrent", reason="pip install 'zhcache[swarm]'")

REPO, WEIGHTS = "org/model", "unet/diffusion_pytorch_model.safetensors"
BYTES = random.Random(7).randbytes(5 * 2**20 + 5)
FILES = {"model_index.json": b'{"_class_name": "T"}', WEIGHTS: BYTES}


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as started:
        started.add(REPO, FILES)
        started.add("org/secret", {"a.safetensors": BYTES[::-1]}, private=True, token="t0ken")
        yield started


def blob_of(daemon, repo=REPO, path=WEIGHTS):
    (held,) = (f for f in daemon.json("show", repo)["files"] if f["path"] == path)
    return held["sha256"]


def check_held(daemon):
    path = Path(daemon.json("path", REPO)["path"])
    assert {name: (path / name).read_bytes() for name in FILES} == FILES


@pytest.fixture(scope="module")
def first(tmp_path_factory, hub):
    hubs = source(hub, token_env='"HUB_TOKEN"')
    daemon = Machine(tmp_path_factory.mktemp("first"), 2, hubs, environ={"HUB_TOKEN": "t0ken"})
    daemon.start()
    daemon.json("prefetch", "org/secret")
    daemon.json("prefetch", REPO)
    daemon.gives(blob_of(daemon))
    yield daemon
    daemon.stop()


def test_weights_come_by_the_swarm_and_are_given_on(tmp_path, hub, first):
    second = Machine(tmp_path, 3, peer(first) + source(hub)).start().swarms()
    try:
        came = second.json("prefetch", REPO)
        assert came["sources"]["swarm"] == len(BYTES)
        check_held(second)
        digest = blob_of(second)
        assert second.gives(digest) == first.gives(digest)
        (shown,) = (s for s in second.json("sources")["sources"] if s["name"] == "swarm")
        assert (shown["kind"], shown["state"], shown["bytes"]) == ("swarm", "ok", len(BYTES))
        second.json("rm", REPO)
        second.json("gc")
        until(lambda: not second.told(digest)["torrents"], "what was collected is given no more")
    finally:
        second.stop()


def test_private_blob_has_no_torrent(first):
    digest = blob_of(first, "org/secret", "a.safetensors")
    assert first.told(digest)["torrents"] == {}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{first.url}/zhcache/v1/torrents/{digest}")
    assert refused.value.code == 404
