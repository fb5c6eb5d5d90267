"""One file from several sources at once, each of which may fail in the middle of it."""

import contextlib
import threading

import pytest

from demohub import Hub
from harness.fetchkit import MIB, long_content, offer
from simulators.scripted import HOLD, Scripted, part
from zhcache.errors import Cancelled
from zhcached.config import DownloadConfig
from zhcached.fetch import allot, segments

SIZE, RATE = 5 * MIB + 17, 8 * MIB
CONTENT = long_content(SIZE)
REPO, FILE = "lab/tiny", "model.safetensors"
# A stall that is waited out, and not taken over, would be seen: no test lasts as long.
PATIENT = DownloadConfig(stall=60, connections=6)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Makes files of a few MiB long ones, and tenths of a second long times."""
    monkeypatch.setattr(allot, "MIN_SPREAD", MIB)
    monkeypatch.setattr(allot, "FIRST_LOOK_S", 0.05)
    monkeypatch.setattr(allot, "JOIN_S", 0.05)
    monkeypatch.setattr(segments, "SILENT_S", 0.3)
    monkeypatch.setattr(segments, "WAIT_S", 0.2)


@pytest.fixture
def hubs():
    """Makes hubs, each with the file and a rate of its own."""
    with contextlib.ExitStack() as running:

        def make(*names, rate=RATE):
            made = []
            for name in names:
                hub = running.enter_context(Hub(name=name))
                hub.add(REPO, {FILE: CONTENT})
                hub.fault("line", rate=rate)
                made.append(hub)
            return made

        yield make


def offers(*hubs):
    where = f"{REPO}/resolve/main/{FILE}"
    return [offer(hub.name, f"{hub.url}/{where}", min_segment=MIB) for hub in hubs]


def starts(hub):
    asked = [r.range for r in hub.requests if r.range]
    return [int(field.removeprefix("bytes=").partition("-")[0]) for field in asked]


def details(fetching, source):
    return " ".join(detail for _, name, detail in fetching.events if name == source)


def test_all_sources_send_at_the_same_time_and_nothing_twice(fetching, hubs):
    three = hubs("one", "two", "three")
    came = fetching.obtain(CONTENT, offers(*three), config=PATIENT)
    assert fetching.blob(came) == CONTENT
    for hub in three:
        assert came.fetched[hub.name] > SIZE // 8
    # A connection whose stretch another takes over may have one buffer on the way.
    assert sum(came.fetched.values()) - SIZE < MIB
    assert fetching.events == []


def test_small_file_stays_with_one_source(fetching):
    content = CONTENT[: MIB - 1]
    with Hub(name="one") as one, Hub(name="two") as two:
        for hub in (one, two):
            hub.add(REPO, {FILE: content})
        one.fault("line", rate=4 * MIB)
        came = fetching.obtain(content, offers(one, two))
        assert two.requests == []
    assert came.fetched == {"one": len(content)}


def test_one_connection_in_all_is_one_source_at_a_time(fetching, hubs):
    one, two = hubs("one", "two")
    one.heal()
    came = fetching.obtain(CONTENT, offers(one, two), config=DownloadConfig(connections=1))
    assert came.fetched == {"one": SIZE}


# Sources that fail in the middle.


def test_stretch_of_a_source_that_stalls_is_taken_over_and_not_waited_for(fetching, hubs):
    good, bad = hubs("good", "bad")
    bad.fault("stall", at=MIB // 2)
    came = fetching.obtain(CONTENT, offers(good, bad), config=PATIENT)
    assert fetching.blob(came) == CONTENT
    assert 0 < came.fetched["bad"] < SIZE // 2
    assert "silent" in details(fetching, "bad")
    assert "less than" not in details(fetching, "bad")


def test_source_that_never_answers_does_not_keep_the_others_waiting(fetching, hubs):
    (good,) = hubs("good")
    good.heal()
    with Scripted(lambda _: [HOLD]) as mute:
        both = [offer("mute", mute.url), *offers(good)]
        came = fetching.obtain(CONTENT, both, config=PATIENT)
    assert came.fetched == {"good": SIZE}
    assert fetching.kinds("mute") in (["slow"], [])


def test_throttled_source_leaves_its_ranges_to_the_others(fetching, hubs):
    good, limited = hubs("good", "limited")
    limited.fault("status", status=429, headers={"Retry-After": "300"}, after=1)
    came = fetching.obtain(CONTENT, offers(limited, good), config=PATIENT)
    assert fetching.blob(came) == CONTENT
    assert came.fetched["limited"] > 0
    assert fetching.kinds("limited") == ["limited"]
    assert [r.status for r in limited.requests if r.range].count(429) <= 2


def test_source_below_the_floor_leaves_its_ranges_to_the_others(fetching, hubs):
    good, slow = hubs("good", "slow", rate=RATE // 2)
    slow.fault("trickle", rate=100, at=MIB // 4)
    impatient = DownloadConfig(stall=0.3, connections=4)
    came = fetching.obtain(CONTENT, offers(good, slow), config=impatient)
    assert fetching.blob(came) == CONTENT
    assert came.fetched["good"] > SIZE // 2
    assert set(fetching.kinds("slow")) == {"slow"}


def test_source_that_breaks_off_leaves_its_ranges_to_the_others(fetching, hubs):
    good, broken = hubs("good", "broken")
    broken.fault("reset", at=MIB // 2, times=1)
    broken.fault("status", status=404, after=1)
    came = fetching.obtain(CONTENT, offers(broken, good), config=PATIENT)
    assert fetching.blob(came) == CONTENT
    assert "switch" in fetching.kinds("broken")
    assert came.fetched["good"] > SIZE // 2


def test_signed_addresses_are_renewed_for_each_source_on_its_own(fetching):
    with contextlib.ExitStack() as running:
        fronts = []
        for name in ("one", "two"):
            front, cdn = (running.enter_context(Hub(name=n)) for n in (name, name + "-cdn"))
            front.add(REPO, {FILE: CONTENT}, data_hub=cdn)
            front.fault("expire", uses=1)
            cdn.fault("line", rate=RATE)
            fetching.servers.append(cdn.url)
            fronts.append(front)
        came = fetching.obtain(CONTENT, offers(*fronts), config=PATIENT)
        for front in fronts:
            assert "relocate" in fetching.kinds(front.name)
            assert came.fetched[front.name] > SIZE // 8
    assert fetching.blob(came) == CONTENT
    assert "switch" not in [kind for kind, _, _ in fetching.events]


def test_changed_file_of_one_source_is_begun_anew_while_another_goes_on(fetching, hubs):
    (steady,) = hubs("steady")
    versions = threading.Semaphore(1)

    def changing(asked):
        etag = '"old"' if versions.acquire(blocking=False) else '"new"'
        if asked.headers.get("if-range", etag) != etag:
            return [part(CONTENT, asked, ETag=etag)]
        return [part(CONTENT, asked, ETag=etag)]

    with Scripted(changing) as other:
        both = [*offers(steady), offer("other", other.url)]
        came = fetching.obtain(CONTENT, both, config=PATIENT)
    assert fetching.blob(came) == CONTENT
    assert came.lied == []


def test_cancel_ends_all_connections_and_keeps_what_came(fetching, hubs):
    two = hubs("one", "two")
    senders = set()

    def on_bytes(sender, _count):
        senders.add(sender.source)
        if len(senders) == 2:
            fetching.control.cancelled.set()

    fetching.control.on_bytes = on_bytes
    with pytest.raises(Cancelled):
        fetching.obtain(CONTENT, offers(*two), config=PATIENT)
    assert not [t for t in threading.enumerate() if t.name == "fetch" and not _ends(t)]
    fetching.control.cancelled.clear()
    senders.add("nobody")
    resumed = fetching.obtain(CONTENT, offers(two[0]), config=PATIENT)
    assert resumed.fetched["one"] < SIZE


def _ends(thread):
    thread.join(5)
    return not thread.is_alive()


# Lies.


def _fast_after(fetching, count, hubs, content_hubs):
    """Takes the hubs' rates away once a whole file has come: the rounds that follow are short."""
    lock, so_far = threading.Lock(), [0]

    def on_bytes(_sender, arrived):
        with lock:
            so_far[0] += arrived
            if so_far[0] >= count:
                for hub, fault in content_hubs:
                    hub.heal(fault)

    fetching.control.on_bytes = on_bytes


@pytest.fixture
def crowd(fetching):
    """Makes hubs by name, those that lie send zeros, and all are fast after the first round."""
    with contextlib.ExitStack() as running:

        def make(rates, liars):
            made, lines = [], []
            for name, rate in rates.items():
                hub = running.enter_context(Hub(name=name))
                hub.add(REPO, {FILE: CONTENT})
                if name in liars:
                    hub.fault("zeros")
                lines.append((hub, hub.fault("line", rate=rate)))
                made.append(hub)
            _fast_after(fetching, SIZE, made, lines)
            return made

        yield make


def test_liar_among_three_is_named_and_only_its_ranges_come_again_from_the_judge(fetching, crowd):
    """The one who sent most is honest: it sends what the others had, and the liar's differ."""
    rates = {"good": RATE // 2, "liar": RATE // 2, "most": 2 * RATE}
    came = fetching.obtain(CONTENT, offers(*crowd(rates, {"liar"})), config=PATIENT)
    assert came.lied == ["liar"]
    assert fetching.blob(came) == CONTENT
    assert fetching.kinds("good") == []


def test_liar_that_sent_most_is_named_and_what_the_others_sent_is_kept(fetching, crowd):
    rates = {"one": RATE // 2, "two": RATE // 2, "liar": 2 * RATE}
    came = fetching.obtain(CONTENT, offers(*crowd(rates, {"liar"})), config=PATIENT)
    assert came.lied == ["liar"]
    assert fetching.blob(came) == CONTENT
    # Both together sent the file once: what they had sent first was not fetched again from them.
    assert came.fetched["one"] + came.fetched["two"] < SIZE + MIB


@pytest.mark.parametrize("most", ["good", "liar", "fibber"])
def test_two_liars_among_three_are_named_whoever_sent_most(fetching, crowd, most):
    rates = dict.fromkeys({"good", "liar", "fibber"} - {most}, RATE // 2) | {most: 2 * RATE}
    came = fetching.obtain(CONTENT, offers(*crowd(rates, {"liar", "fibber"})), config=PATIENT)
    assert sorted(came.lied) == ["fibber", "liar"]
    assert fetching.blob(came) == CONTENT


def test_judge_that_fails_gives_way_to_another(fetching, crowd):
    rates = {"liar": RATE // 2, "good": RATE, "judge": 2 * RATE}
    liar, good, judge = crowd(rates, {"liar"})
    healing, so_far = fetching.control.on_bytes, []

    def on_bytes(sender, count):
        healing(sender, count)
        before = sum(so_far)
        so_far.append(count)
        if before < SIZE <= before + count:
            judge.fault("status", status=404)

    fetching.control.on_bytes = on_bytes
    came = fetching.obtain(CONTENT, offers(liar, good, judge), config=PATIENT)
    assert came.lied == ["liar"]
    assert fetching.blob(came) == CONTENT


# Readers.


def test_bytes_that_a_reader_waits_for_are_asked_for_first(fetching, hubs):
    (hub,) = hubs("hub")
    hub.heal()
    fetching.control.wanted = lambda: [3 * MIB]
    fetching.obtain(CONTENT, offers(hub))
    assert starts(hub)[0] == 3 * MIB
    assert 0 in starts(hub)


def test_reader_that_jumps_ahead_need_not_wait_for_a_slow_stretch(fetching, hubs):
    (hub,) = hubs("hub", rate=3 * MIB)
    jumped = threading.Event()
    fetching.control.on_bytes = lambda _sender, _count: jumped.set()
    # In the middle of what the first connection is to bring.
    fetching.control.wanted = lambda: [3 * MIB] if jumped.is_set() else []
    came = fetching.obtain(CONTENT, offers(hub), config=PATIENT)
    assert starts(hub)[:2] == [0, 3 * MIB]
    assert fetching.blob(came) == CONTENT
