"""A model is followed through the command line and the real daemon, which is killed on the way."""

import contextlib
import json

import pytest

from harness.daemon import source, until
from harness.storekit import open_store, publish
from zhcache.client import Client
from zhcache.errors import UsageError

pytestmark = pytest.mark.journey

REPO = "org/name"
REFUSED = (
    {"revision": "c" * 40},
    {"every_s": 0.5},
    {"every_s": 1e9},
    {"keep": -1},
    {"variants": ["no-such-recipe"]},
)
FILES = {"config.json": b'{"a": 1}', "unet/model.safetensors": bytes(range(256)) * 400}


@pytest.fixture
def daemon(hub, make_daemon):
    """Not started; an earlier one brought the model as it was before the hub's newest commit."""
    old = hub.add(REPO, FILES).commit
    made = make_daemon(source(hub))
    with contextlib.closing(open_store(made.home)) as store:
        publish(store, FILES, repo=REPO, commit=old)
    hub.update(REPO, {"config.json": b'{"a": 2}'})
    return made


def standing(daemon):
    with Client(daemon.socket) as client:
        (one,) = client.followed()
        return one


def test_rm_says_that_a_followed_model_comes_back(daemon):
    daemon.start()
    daemon.cli("follow", REPO, "--every", "1d")
    until(lambda: standing(daemon).state == "fresh", "it is here")
    assert "`zhcache unfollow org/name`" in daemon.cli("rm", REPO).stderr
    daemon.cli("prefetch", REPO)
    daemon.cli("unfollow", REPO)
    assert daemon.json("rm", REPO)["followed"] is False


def test_followed_model_is_fresh_after_a_kill_and_the_old_one_served_up_to_then(hub, daemon):
    old, new = hub.repo(REPO, "huggingface").commits
    daemon.start(ZHCACHE_FAILPOINTS="publish.after_rows=kill")
    begun = daemon.json("follow", REPO, "--every", "1d", "--keep", "2")
    assert (begun["schema"], begun["repo"], begun["every"], begun["keep"]) == (1, REPO, 86400, 2)
    # Between the manifest and the ref it dies.
    daemon.process.wait(30)
    assert (daemon.home / "repos/models--org--name/snapshots" / f"{new}.json").exists()
    assert (daemon.home / "hub/models--org--name/refs/main").read_text() == old
    daemon.start()
    until(lambda: standing(daemon).commit == new, "the fetch goes on by itself")
    with Client(daemon.socket) as client:
        assert client.path(REPO).name == new
        assert client.path(REPO, revision=old).name == old
    table = daemon.cli("follow").stdout
    assert (REPO in table, new[:12] in table, "1d" in table) == (True, True, True)
    kept = json.loads((daemon.home / "follow.json").read_text())
    assert kept["followed"][0]["repo"] == REPO
    assert daemon.json("unfollow", REPO)["repo"] == REPO
    assert daemon.json("unfollow", REPO, code=4)["error"]["code"] == "not_found"
    with Client(daemon.socket) as client:
        for said in REFUSED:
            with pytest.raises(UsageError):
                client.follow(REPO, **said)
        assert client.followed() == []
    assert daemon.cli("follow", "--keep", "1", check=False).returncode == 2
    assert daemon.cli("follow", REPO, "--every", "0s", check=False).returncode == 2
