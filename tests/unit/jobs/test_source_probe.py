"""Asking sources how they are, and what is remembered of it: real hubs, no daemon."""

import os
from itertools import pairwise

import pytest

from demohub import Hub
from harness.storekit import Clock, open_store
from zhcache.errors import Busy, UsageError
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.errors import LimitedError, RepoUnavailable, StatusError, TransportError
from zhcached.fetch.offer import Sender
from zhcached.jobs.asking import consult as consulting
from zhcached.jobs.asking.consult import consult, wait_for
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.probe import WELL_KNOWN, Prober
from zhcached.jobs.asking.resolve import Answers
from zhcached.jobs.asking.revive import FIRST_S, LONGEST_S, Revival
from zhcached.jobs.asking.sample import worth_sampling
from zhcached.jobs.fetching.lines import Lines
from zhcached.sources.base import RemoteFile
from zhcached.sources.health import Failed
from zhcached.sources.refusals import missing_or_private
from zhcached.sources.registry import build, configured_origins
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport
from zhcached.transport.quota import Quotas

MIB = 2**20
CONTENT = os.urandom(3 * MIB)
FILES = {"config.json": b"{}", "unet/model.safetensors": CONTENT}
REPO = str(WELL_KNOWN)


class Site:
    """Sources, their memory and their prober, as the daemon joins them."""

    def __init__(self, store, configs, known_at=lambda _: None):
        self.clock = Clock(wall=1_800_000_000.0)
        self.store, self.configs = store, configs
        self.quotas = Quotas(self.clock)
        policy = AddressPolicy(configured_origins(configs))
        self.transport = Transport(policy, connect_timeout_s=2, quotas=self.quotas)
        self.sources = build(configs, self.transport, {})
        self.health = Health(store.catalog, configs, self.clock, self.quotas)
        self.prober = Prober(self.sources, self.transport, self.quotas, self.health, known_at)

    def info(self, name="hub"):
        return next(info for info in self.health.report() if info.name == name)

    def fail(self, name="hub", times=4):
        for _ in range(times):
            self.health.observe(name, Failed("silent", "timeout"))


@pytest.fixture
def hub():
    with Hub() as started:
        yield started


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def make_site(store):
    made = []

    def make(*hubs, kind="huggingface", known_at=lambda _: None, data=()):
        origins = tuple(hub.url for hub in data)
        configs = [SourceConfig(hub.name, kind, hub.url, data_origins=origins) for hub in hubs]
        made.append(Site(store, configs, known_at))
        return made[-1]

    yield make
    for site in made:
        site.transport.close()


@pytest.fixture
def cdn():
    with Hub(name="cdn") as started:
        yield started


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_source_that_works_is_measured_on_both_planes(hub, cdn, make_site, kind):
    name = REPO if kind == "huggingface" else "AI-ModelScope/stable-diffusion-v1-5"
    hub.add(name, FILES, data_hub=cdn)
    site = make_site(hub, kind=kind, data=[cdn])
    (tested,) = site.prober.test(None)
    assert (tested.works, tested.found, tested.asked) == (True, True, REPO)
    assert (tested.bytes, tested.plane) == (MIB, cdn.address)
    assert tested.latency > 0 and tested.rate > 0
    info = site.info()
    assert info.state == "ok"
    assert [(p.plane, p.host, p.state) for p in info.planes] == [
        ("metadata", hub.address, "ok"),
        ("data", cdn.address, "ok"),
    ]


def test_repository_that_is_here_is_asked_for_first(hub, make_site):
    hub.add("org/here", FILES)
    site = make_site(hub, known_at={"hub": "org/here"}.get)
    (tested,) = site.prober.test("hub")
    assert (tested.asked, tested.works, tested.bytes) == ("org/here", True, MIB)


def test_hub_that_has_nothing_it_is_asked_for_is_alive(hub, make_site):
    (tested,) = make_site(hub).prober.test(None)
    assert (tested.works, tested.found, tested.bytes) == (True, False, 0)
    assert REPO in tested.reasons[0].values["repo"]


def test_dead_data_plane_is_told_from_a_dead_hub(hub, cdn, make_site):
    hub.add(REPO, FILES, data_hub=cdn)
    site = make_site(hub, data=[cdn])
    cdn.stop()
    for _ in range(3):
        (tested,) = site.prober.test(None)
    assert (tested.works, tested.found, tested.fault) == (False, True, "refused")
    assert tested.plane == cdn.address
    assert site.info().reason.startswith(f"lists models, but {cdn.address} sends nothing: ")
    assert site.health.doubtful() == set()
    hub.stop()
    (tested,) = site.prober.test(None)
    assert (tested.works, tested.found, tested.latency) == (False, False, None)


def test_data_plane_that_stalls_is_given_up_after_its_time(hub, make_site, monkeypatch):
    monkeypatch.setattr("zhcached.jobs.asking.sample.DATA_S", 0.3)
    hub.add(REPO, FILES)
    hub.fault("stall", at=0)
    (tested,) = make_site(hub).prober.test(None)
    assert (tested.works, tested.fault) == (False, "stall")


def test_line_that_is_slow_is_measured_all_the_same(hub, make_site, monkeypatch):
    monkeypatch.setattr("zhcached.jobs.asking.sample.DATA_S", 0.4)
    hub.add(REPO, FILES)
    hub.fault("rate", rate=100_000)
    (tested,) = make_site(hub).prober.test(None)
    assert tested.works
    assert 0 < tested.bytes < MIB
    assert tested.rate < MIB


def test_web_page_instead_of_a_file_is_no_sign_of_life(hub, make_site):
    hub.add(REPO, FILES)
    hub.fault("html")
    (tested,) = make_site(hub).prober.test(None)
    assert (tested.works, tested.fault) == (False, "invalid")


def test_all_sources_are_asked_at_once_and_none_is_waited_for_too_long(hub, make_site, monkeypatch):
    monkeypatch.setattr("zhcached.jobs.asking.probe.METADATA_S", 0.3)
    monkeypatch.setattr("zhcached.jobs.asking.probe.DATA_S", 0.2)
    monkeypatch.setattr("zhcached.jobs.asking.probe._SLACK_S", 0.0)
    hub.add(REPO, FILES)
    with Hub(name="hangs") as hangs:
        hangs.fault("delay", seconds=60, plane="meta")
        site = make_site(hub, hangs)
        tested = {one.name: one for one in site.prober.test(None)}
    assert tested["hub"].works
    assert (tested["hangs"].works, tested["hangs"].state) == (False, "down")


def test_name_that_is_no_source_is_refused_with_those_that_are(hub, make_site):
    with pytest.raises(UsageError) as caught:
        make_site(hub).prober.test("nope")
    assert "hub" in caught.value.hint


def test_two_tests_at_once_do_not_ask_the_hubs_twice(hub, make_site):
    site = make_site(hub)
    site.prober._testing.acquire()
    with pytest.raises(Busy):
        site.prober.test(None)
    assert hub.requests == []


def test_budget_that_runs_low_is_not_spent_on_tests(hub, make_site):
    hub.add(REPO, FILES)
    site = make_site(hub)
    low = {"RateLimit": '"api";r=3;t=60'}
    hub.fault("status", plane="meta", status=404, headers=low, times=1)
    site.prober.look("hub")
    asked = len(hub.requests)
    (tested,) = site.prober.test(None)
    assert (tested.works, len(hub.requests)) == (True, asked)
    assert "budget" in tested.reasons[0].template
    site.fail()
    site.prober.look("hub")
    assert len(hub.requests) == asked


def test_limited_source_is_shown_with_its_time_and_hears_of_no_test(hub, make_site):
    site = make_site(hub)
    hub.fault("status", plane="meta", status=429, headers={"Retry-After": "77"})
    (tested,) = site.prober.test(None)
    assert (tested.works, tested.state, tested.fault) == (False, "limited", "limited")
    assert tested.limited_until == pytest.approx(site.clock.wall() + 77)
    asked = len(hub.requests)
    site.prober.test(None)
    assert len(hub.requests) == asked
    site.clock.pass_s(78)
    assert site.info().state == "unknown"


def test_wait_that_was_asked_for_outlives_the_daemon(hub, make_site):
    site = make_site(hub)
    hub.fault("status", plane="meta", status=429, headers={"Retry-After": "77"})
    site.prober.test(None)
    asked = len(hub.requests)
    again = make_site(hub)
    assert again.info().limited_until == pytest.approx(site.clock.wall() + 77)
    again.prober.test(None)
    assert len(hub.requests) == asked


def test_records_survive_a_restart_and_an_index_built_anew(hub, cdn, make_site, store):
    hub.add(REPO, FILES, data_hub=cdn)
    site = make_site(hub, data=[cdn])
    site.prober.test(None)
    site.fail(times=1)
    site.health.save()
    before = site.info()
    store.rebuild()
    assert make_site(hub, data=[cdn]).info() == before
    store.catalog.start_over()
    site.health.save()
    assert make_site(hub, data=[cdn]).info() == before


def test_silent_source_comes_back_by_itself_at_one_request(hub, make_site):
    site = make_site(hub)
    site.fail(times=5)
    revival = Revival(site.prober, site.health, site.clock, dice=lambda: 0.5)
    assert revival.once() == []
    site.clock.pass_s(FIRST_S + 1)
    assert site.info().state == "down"
    assert revival.once() == ["hub"]
    assert len(hub.requests) == 1
    assert site.health.silent() == []
    site.clock.pass_s(LONGEST_S * 2)
    assert revival.once() == []


def test_source_that_stays_silent_is_asked_later_and_later_and_stays_down(hub, make_site):
    site = make_site(hub)
    hub.stop()
    site.fail()
    revival = Revival(site.prober, site.health, site.clock, dice=lambda: 1.0)
    asked = []
    for second in range(0, 3600, 5):
        if revival.once():
            asked.append(second)
        assert site.info().state == "down"
        site.clock.pass_s(5)
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(1.25 * LONGEST_S, abs=5)


def test_source_that_only_sends_nothing_is_not_asked_in_the_background(hub, make_site):
    site = make_site(hub)
    for _ in range(5):
        site.health.observe("hub", Failed("stall", "stall"), "https://cdn.example")
    assert site.info().state == "down"
    assert site.health.silent() == []


def test_sample_is_a_large_file_and_no_larger_than_it_need_be():
    files = [RemoteFile(f"f{size}", size) for size in (0, 10, MIB, 5 * MIB)]
    assert worth_sampling(files).size == MIB
    assert worth_sampling(files[:2]).size == 10
    assert worth_sampling(files[:1]) is None


# How fast a plane sends.


def test_rate_is_of_all_that_a_plane_sends_and_pauses_are_nobodys_slowness(hub, make_site):
    site = make_site(hub)
    lines, sender = Lines(site.health, site.clock), Sender("hub", "https://cdn.example")
    for _ in range(2):
        lines.answered(sender, 0.1)
        for _ in range(10):
            site.clock.pass_s(0.1)
            lines.add(sender, MIB, measured=True)
            lines.add(sender, MIB, measured=True)
        site.clock.pass_s(3600)
    lines.settle()
    info = site.info()
    assert info.rate == pytest.approx(20 * MIB, rel=0.1)
    assert info.bytes == 40 * MIB
    assert info.planes[0].latency == pytest.approx(0.1)


def test_small_files_count_and_measure_nothing(hub, make_site):
    site = make_site(hub)
    lines, sender = Lines(site.health, site.clock), Sender("hub", "https://hub.example")
    for _ in range(100):
        site.clock.pass_s(0.1)
        lines.add(sender, 60_000, measured=False)
    lines.settle()
    assert (site.info().rate, site.info().bytes) == (None, 6_000_000)


# Waiting for those who may know.


def limited(wait_s, kind=LimitedError):
    return kind("later", status=429, retry_after_s=wait_s)


def test_only_limited_sources_are_worth_waiting_for():
    silent, no = TransportError("silent"), missing_or_private("a", "org/name")
    assert isinstance(no, RepoUnavailable)
    assert wait_for(Answers(failures={"a": limited(9), "b": limited(5), "c": silent})) == 5
    assert wait_for(Answers(failures={"a": limited(9), "b": no})) is None
    assert wait_for(Answers(failures={"a": silent})) is None
    assert wait_for(Answers(failures={"a": StatusError("no", status=503, retry_after_s=5)})) is None
    assert wait_for(Answers(failures={})) is None


def test_sole_source_that_is_limited_is_waited_for_and_asked_again(hub, make_site, monkeypatch):
    hub.add("org/name", FILES)
    site = make_site(hub)
    refused = {"RateLimit": '"api";r=0;t=40'}
    hub.fault("status", plane="meta", status=429, headers=refused, times=1)
    rested = []

    def rest(seconds, _check):
        rested.append((seconds, len(hub.requests)))
        site.clock.pass_s(seconds)

    monkeypatch.setattr(consulting, "_rest", rest)
    answers = consult(site.sources, parse_repo("org/name"), lambda _: None, {}, site.health)
    assert [one.source for one in answers.found] == ["hub"]
    assert rested == [(pytest.approx(40), 1)]


def test_limited_source_keeps_nobody_waiting_where_another_answers(hub, make_site, monkeypatch):
    with Hub(name="other") as other:
        other.add("org/name", FILES)
        site = make_site(hub, other)
        site.quotas.rest(site.sources[0].origin, 100)
        monkeypatch.setattr(consulting, "_rest", lambda *_: pytest.fail("nobody need wait"))
        answers = consult(site.sources, parse_repo("org/name"), lambda _: None, {}, site.health)
        assert [one.source for one in answers.found] == ["other"]
        assert hub.requests == []


def test_wait_beyond_patience_is_told_at_once(hub, make_site, monkeypatch):
    site = make_site(hub)
    hub.fault("status", plane="meta", status=429, headers={"Retry-After": "1000000000"})
    monkeypatch.setattr(consulting, "_rest", lambda *_: pytest.fail("too long"))
    answers = consult(site.sources, parse_repo("org/name"), lambda _: None, {}, site.health)
    assert isinstance(answers.failures["hub"], StatusError)
    assert len(hub.requests) == 1
    assert site.info().limited_until == site.clock.wall() + 3600
