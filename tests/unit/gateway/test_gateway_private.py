"""What is not known to be public: caches of users, what a peer was told to give."""

import hashlib
import http.client
import json

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import CONFIG, FILES, REPO, WEIGHTS, Front
from harness.storekit import publish, publish_tiny
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.gateway.routes import routes
from zhcached.jobs.pulling import possession

SMALL = "model_index.json"


@pytest.fixture
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


def cache_of(folder, commit, repo=REPO, files=(SMALL,)):
    """Makes the cache that huggingface_hub leaves of some files; returns it as a source."""
    top = folder / f"models--{repo.replace('/', '--')}"
    for name in files:
        blob = top / "blobs" / hashlib.sha256(FILES[name]).hexdigest()
        link = top / "snapshots" / commit / name
        for parent in (blob.parent, link.parent, top / "refs"):
            parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(FILES[name])
        link.symlink_to(blob)
    (top / "refs" / "main").write_text(commit)
    return SourceConfig("cache", "folder", str(folder))


def test_a_users_cache_alone_makes_nothing_public(tmp_path, hub):
    # It may be there by the user's own token, and the hub tells nobody else of it.
    secret = cache_of(tmp_path / "cache", "c" * 40, "lab/secret")
    with Front(tmp_path / "a", [hub], also=[secret]) as front:
        assert front.get(SMALL, repo="lab/secret").status == 404
        assert front.get(SMALL).body == CONFIG
    with Front(tmp_path / "b", [hub], also=[secret], entitled=("lab/secret",)) as front:
        assert front.get(SMALL, repo="lab/secret", method="HEAD").status == 200


def test_a_users_cache_does_not_displace_what_the_hub_said(tmp_path, hub):
    with Front(tmp_path / "store", [hub]) as front:
        told = front.pulls.listed(front.repo, "main")
    part = cache_of(tmp_path / "cache", told.commit)
    with Front(tmp_path / "store", [hub], also=[part]) as front:
        assert front.pulls.listed(front.repo, "main").private is False
    with Front(tmp_path / "store", [hub], also=[part]) as front:
        hub.stop()
        offline = front.pulls.listed(front.repo, "main")
        assert (offline.files, offline.private) == (told.files, False)
        assert front.pulls.listed(front.repo, told.commit).files == told.files


@pytest.mark.parametrize(("source", "private"), [("hub", False), ("import", True)])
def test_a_peer_is_told_what_is_not_public(tmp_path, monkeypatch, source, private):
    monkeypatch.setattr("harness.gatewaykit.routes", routes)
    with Front(tmp_path / "store", [], entitled=("me/mine",)) as front:
        publish_tiny(front.store, repo="me/mine", source=source)
        line = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20)
        line.request("GET", "/zhcache/v1/models/me/mine")
        told = json.load(line.getresponse())
        line.close()
        assert told["private"] is private


@pytest.mark.parametrize(("change", "status"), [("gated", 403), ("private", 404)])
def test_what_is_closed_by_now_is_not_given_by_an_older_commit(
    tmp_path, hub, monkeypatch, change, status
):
    monkeypatch.setenv("HUB_TOKEN", "t0ken")
    options = {"token_env": "HUB_TOKEN"} if change == "private" else {}
    with Front(tmp_path / "store", [hub], source=options, refresh=0.0) as front:
        commit = front.pulls.listed(front.repo, "main").commit
        assert front.get(SMALL, revision=commit).body == CONFIG
        closed = {"private": True} if change == "private" else {"gated": "listing"}
        hub.add(REPO, FILES | {"new.json": b"{}"}, token="t0ken", **closed)
        assert front.get(SMALL).status == status
        assert front.get(SMALL, revision=commit).status == status


def test_what_is_gated_by_now_is_not_given_to_peers(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("harness.gatewaykit.routes", routes)
    with Front(tmp_path / "store", [hub], refresh=0.0) as front:
        digest = hashlib.sha256(CONFIG).hexdigest()
        get = f"/{REPO}/resolve/main/{SMALL}"
        assert status(front, get) == 200
        until(lambda: status(front, f"/zhcache/v1/blobs/{digest}") == 200, "peers have it")
        hub.add(REPO, FILES, gated="listing")
        assert status(front, get) == 403
        assert status(front, f"/zhcache/v1/blobs/{digest}") == 404


def status(front, path):
    line = front.connect()
    line.request("GET", path)
    status = line.getresponse().status
    line.close()
    return status


def test_bytes_of_a_closed_model_are_not_given_to_whoever_names_their_digest(tmp_path, hub):
    # Its digest is no secret: a mirror lists it as a file of its own, and has not the bytes.
    hub.add("thief/model", {"a.safetensors": WEIGHTS, "b.json": CONFIG})
    with Front(tmp_path / "store", [hub]) as front:
        closed = {"w.safetensors": WEIGHTS}
        publish(front.store, closed, repo=parse_repo("lab/closed"), source="hub", private=True)
        hub.fault("zeros", path="a.safetensors")
        assert front.get("a.safetensors", repo="thief/model").status == 404
        assert front.get("a.safetensors", repo="thief/model", method="HEAD").status == 404
        assert front.get("b.json", repo="thief/model").body == CONFIG
        # A hub that has them has shown it, by less than the whole.
        hub.heal()
        before = hub.sent("a.safetensors")
        assert front.get("a.safetensors", repo="thief/model").body == WEIGHTS
        assert hub.sent("a.safetensors") - before == possession.STRETCH
