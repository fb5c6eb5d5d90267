"""Hubs that stand behind a gateway of the site: who is asked, when, and for which bytes."""

import contextlib

import pytest

from demohub import Hub
from harness.storekit import Clock, open_store
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.errors import RepoUnavailable, TransportError
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.resolve import Answers
from zhcached.jobs.asking.spare import Question, first_asked, spares
from zhcached.sources.base import Resolution
from zhcached.sources.registry import build, configured_origins
from zhcached.sources.trust import FileTrust
from zhcached.store.digest import Promise
from zhcached.transport.address import AddressPolicy, Origin
from zhcached.transport.http import Transport

REPO, PATH = parse_repo("org/model"), "a.safetensors"
NEWER, OLDER = b"newer" * 100, b"older" * 100


@pytest.fixture
def hub():
    with Hub(name="hub") as started:
        started.add(str(REPO), {PATH: OLDER, "config.json": b"{}"})
        yield started


@pytest.fixture
def site(tmp_path):
    """Returns a function that builds sources of tables, and what is remembered of them."""
    with contextlib.ExitStack() as opened:

        def make(*configs):
            transport = Transport(AddressPolicy(configured_origins(configs)), connect_timeout_s=2)
            store = open_store(tmp_path, Clock())
            for one in (transport, store):
                opened.callback(one.close)
            return build(configs, transport), Health(store.catalog, configs, Clock())

        yield make


def table(name, kind="huggingface", url="http://127.0.0.1:9", **more):
    return SourceConfig(name, kind, url, **more)


def names(sources):
    return [one.name for one in sources]


def test_site_is_asked_first_only_if_a_gateway_of_it_lives(site):
    gateway, peer, far = table("gateway", near=True), table("peer", "peer"), table("far")
    sources, health = site(peer, gateway, far)
    assert health.near == {"gateway", "peer"}
    assert names(first_asked(sources, health.near, ())) == ["peer", "gateway"]
    assert names(first_asked(sources, health.near, {"peer"})) == ["peer", "gateway"]
    assert first_asked(sources, health.near, {"gateway"}) is sources
    assert first_asked(sources, {"peer"}, ()) is sources


def spare_of(site, hub, commit, asked=None):
    sources, health = site(table("gateway", near=True), table("far", url=hub.url))
    told = Resolution(
        "gateway", "huggingface", str(REPO), "main", commit, (), Origin.parse("http://127.0.0.1:9")
    )
    question = Question(REPO, told, lambda _: asked, {})
    (spare,) = spares(sources, Answers(found=[told]), question, health).values()
    return spare


def trusted(path, digests):
    promise = Promise(**digests)
    return FileTrust(path, promise, promise, ("gateway",), "first-use")


def of(hub, path):
    commit = hub.repo(str(REPO), "huggingface").head
    file = commit.files[path]
    return trusted(path, {"size": file.size, "sha256": file.sha256})


def test_spare_hub_is_asked_at_the_very_commit_and_once_for_all_files(site, hub):
    older = hub.repo(str(REPO), "huggingface").head
    large, small = of(hub, PATH), older.files["config.json"]
    hub.update(str(REPO), {PATH: NEWER})
    spare = spare_of(site, hub, older.id)
    assert hub.requests == []
    assert older.id in spare.locate(large).url
    asked = len(hub.requests)
    spare.locate(trusted("config.json", {"size": 2, "git_sha1": small.git_sha1}))
    assert len(hub.requests) == asked


def test_spare_hub_that_does_not_know_the_commit_is_asked_for_the_branch(site, hub):
    assert "/resolve/" in spare_of(site, hub, "c" * 40).locate(of(hub, PATH)).url


def test_spare_hub_gives_no_other_bytes_than_were_promised(site, hub):
    wanted = of(hub, PATH)
    hub.update(str(REPO), {PATH: NEWER})
    spare = spare_of(site, hub, "c" * 40)
    with pytest.raises(RepoUnavailable) as refused:
        spare.locate(wanted)
    assert PATH in str(refused.value)


def test_no_of_a_spare_hub_is_remembered_and_silence_is_not(site, hub):
    wanted = of(hub, PATH)
    spare = spare_of(site, hub, "c" * 40)
    hub.stop()
    with pytest.raises(TransportError):
        spare.locate(wanted)
    hub.start()
    hub.remove(str(REPO))
    with pytest.raises(RepoUnavailable):
        spare.locate(wanted)
    asked = len(hub.requests)
    with pytest.raises(RepoUnavailable):
        spare.locate(wanted)
    assert len(hub.requests) == asked
