"""A model that one machine has, had by others: real daemons, by name and by digest; folders too."""

import json
import os
import random
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import Daemon, source
from zhcache.client import Client

REPO, WEIGHTS = "org/model", "unet/diffusion_pytorch_model.safetensors"
BYTES = random.Random(3).randbytes(3 * 2**20 + 5)
FILES = {"model_index.json": b'{"_class_name": "T"}', "unet/config.json": b"{}", WEIGHTS: BYTES}
SERVE = '[serve]\nlisten = "127.0.0.1:0"\n'


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as started:
        started.add(REPO, FILES)
        started.add("org/secret", {"a.safetensors": BYTES[:999]}, private=True, token="t0ken")
        yield started


@pytest.fixture
def brought(hub):
    """Returns how many bytes of weights the hub sent since the test began."""
    before = len(hub.requests)
    return lambda: sum(
        r.sent for r in hub.requests[before:] if r.file == WEIGHTS and r.plane == "bytes"
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory, hub):
    """The machine that has the models; ``peer`` is how others configure it."""
    config = source(hub, token_env='"HUB_TOKEN"') + SERVE
    daemon = Daemon(tmp_path_factory.mktemp("first"), config, {"HUB_TOKEN": "t0ken"}).start()
    daemon.json("prefetch", REPO)
    daemon.json("prefetch", "org/secret")
    with Client(daemon.socket) as client:
        daemon.url = client.gateway().url
    yield daemon
    daemon.stop()


def peer(url):
    return f'[[source]]\nname = "peer"\nkind = "peer"\nendpoint = "{url}"\n'


def folder(path):
    return f'[[source]]\nname = "folder"\nkind = "folder"\nendpoint = "{path}"\n'


def check_held(daemon):
    path = Path(daemon.json("path", REPO)["path"])
    assert {name: (path / name).read_bytes() for name in FILES} == FILES


@pytest.fixture(scope="module")
def second(tmp_path_factory, hub, first):
    """A machine with a line that has the peer too."""
    daemon = Daemon(tmp_path_factory.mktemp("second"), peer(first.url) + source(hub)).start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def third(tmp_path_factory, first):
    """A machine that has nobody but the peer."""
    daemon = Daemon(tmp_path_factory.mktemp("third"), peer(first.url)).start()
    yield daemon
    daemon.stop()


def test_weights_come_from_the_peer_and_the_hub_says_what_they_are(second, brought):
    done = second.json("prefetch", REPO)
    assert (done["sources"]["peer"], brought()) == (len(BYTES), 0)
    # What a peer has it has from a hub: that is no second witness.
    assert done["trust"] == "first-use"
    check_held(second)


def test_bytes_that_a_peer_has_of_another_model_come_from_it_by_digest(hub, first, second, brought):
    other = BYTES[::-1]
    hub.add("org/elsewhere", {WEIGHTS: other})
    hub.add("org/twin", {"unet/config.json": b"{}", WEIGHTS: other})
    first.json("prefetch", "org/elsewhere")
    before = brought()
    done = second.json("prefetch", "org/twin")
    assert (done["sources"], brought()) == ({"peer": len(other)}, before)


def test_peer_alone_gives_what_it_has_and_says_no_to_all_else(first, third):
    assert third.json("prefetch", REPO)["sources"] == {"peer": sum(map(len, FILES.values()))}
    check_held(third)
    assert third.json("prefetch", "org/unheard-of", code=4)["error"]["code"] == "not_found"


def test_peer_that_wants_a_token_says_so_and_is_not_taken_to_work(make_daemon):
    guarded = make_daemon(SERVE + 'token_env = "LAB_TOKEN"\n', name="guarded").start(LAB_TOKEN="s3")
    with Client(guarded.socket) as client:
        config = peer(client.gateway().url)
    other = make_daemon(config, name="other").start()
    for said in ("peer wants a token and was shown none", "does not accept the token in LAB_TOKEN"):
        assert said in other.json("prefetch", REPO, code=8)["error"]["message"]
        ran = other.cli("sources", "test", "--json", check=False)
        (tested,) = json.loads(ran.stdout)["sources"]
        assert (ran.returncode, tested["works"]) == (10, False)
        assert said in tested["error"]["message"]
        assert "token_env" in tested["error"]["hint"] or "renew it" in tested["error"]["hint"]
        other.stop()
        other.configure(config + 'token_env = "LAB_TOKEN"\n')
        other.start(LAB_TOKEN="s4")
    other.stop()
    other.start(LAB_TOKEN="s3")
    assert other.json("sources", "test")["sources"][0]["works"]
    assert other.json("prefetch", REPO, code=4)["error"]["code"] == "not_found"


def test_private_model_is_given_to_nobody_by_name_or_digest(first, third):
    assert third.json("prefetch", "org/secret", code=4)
    (held,) = first.json("show", "org/secret")["files"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{first.url}/zhcache/v1/blobs/{held['sha256']}")
    assert refused.value.code == 404
    with urllib.request.urlopen(f"{first.url}/zhcache/v1/blobs?sha256={held['sha256']}") as told:
        assert json.load(told)["sizes"] == {}


@pytest.mark.slow
def test_blob_that_was_altered_at_the_peer_is_not_given_and_the_hub_is_asked(
    hub, make_daemon, brought
):
    damaged = make_daemon(source(hub) + SERVE, name="damaged").start()
    damaged.json("prefetch", REPO)
    (held,) = (f for f in damaged.json("show", REPO)["files"] if f["path"] == WEIGHTS)
    with Client(damaged.socket) as client:
        url = client.gateway().url
    blob = Path(held["blob"])
    found = blob.stat()
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(len(BYTES) // 2)
        file.write(b"\0" * 64)
    blob.chmod(0o440)
    os.utime(blob, ns=(found.st_atime_ns, found.st_mtime_ns))
    before = brought()
    daemon = make_daemon(peer(url) + source(hub)).start()
    daemon.json("prefetch", REPO)
    assert brought() - before == len(BYTES)
    check_held(daemon)


def test_cache_of_the_official_client_serves_as_a_source(hub, make_daemon, tmp_path, brought):
    import huggingface_hub

    cache = tmp_path / "cache"
    huggingface_hub.snapshot_download(REPO, endpoint=hub.url, cache_dir=cache, token=False)
    sent = brought()
    daemon = make_daemon(folder(cache) + source(hub)).start()
    done = daemon.json("prefetch", REPO)
    assert (done["sources"]["folder"], brought()) == (len(BYTES) + 2 + 20, sent)
    check_held(daemon)


def test_plain_folder_serves_what_a_hub_vouches_for_and_nothing_by_itself(
    hub, make_daemon, tmp_path, brought
):
    for name, content in FILES.items():
        file = tmp_path / "models" / REPO / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    daemon = make_daemon(folder(tmp_path / "models") + source(hub)).start()
    asked = daemon.json("prefetch", REPO, "--source", "folder", code=9)
    assert "hash to" in asked["error"]["message"]
    assert daemon.json("prefetch", REPO)["sources"] == {"folder": sum(map(len, FILES.values()))}
    assert brought() == 0
    check_held(daemon)
