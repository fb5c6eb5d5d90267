"""Which sources join and go, and over how many connections."""

import itertools

from harness.fetchkit import MIB, offer
from zhcached.fetch.allot import FIRST_LOOK_S, PROBE_S, Allotment
from zhcached.fetch.nearby import HOPELESS, HOPELESS_S
from zhcached.fetch.ramp import FULL_LINE_BYTES_PER_S, RAMP_S
from zhcached.fetch.roster import REJOIN_S
from zhcached.fetch.verdict import REST_S, OtherSource
from zhcached.store.ranges import Ranges

NOW, GIB = 5000.0, 2**30
STEP_S = 0.05


class Played:
    """An allotment of a file whose sources send at given rates over all their connections."""

    def __init__(self, rates, *, size=GIB, connections=8, priors=None, **limits):
        priors = priors or {}
        self.rates = rates
        self.size = size
        self.missing = Ranges([(0, size)])
        self.now = NOW
        self.running = []
        self.lengths = {}
        self.lately = {}
        offers = [
            offer(
                name,
                f"http://{name}.example/f",
                rate=priors.get(name),
                is_near=name.startswith("near"),
                **limits,
            )
            for name in rates
        ]
        self.allotment = Allotment(offers, size=size, connections=connections, now=NOW)
        self.standings = {s.offer.source: s for s in self.allotment.roster.standings}

    def seats(self):
        return {name: standing.seats for name, standing in self.standings.items()}

    def play(self, seconds, wanted=()):
        """Lets time pass; returns the sources that were let go of."""
        gone = []
        for _ in range(round(seconds / STEP_S)):
            self._hand_out(wanted)
            gone += self.allotment.settle(self.missing, wanted, self.now, self.lately.get)
            self.now += STEP_S
            for segment in list(self.running):
                self._send(segment)
        return [standing.offer.source for standing in gone]

    def _hand_out(self, wanted):
        for _ in range(64):
            segment = self.allotment.hand_out(
                None, self.missing, wanted, self.now, takes_silent=True
            )
            if segment is None:
                return
            self.running.append(segment)
            self.lengths[segment] = segment.left
        raise AssertionError("handing out does not end")

    def _send(self, segment):
        standing = segment.standing
        share = self.rates[standing.offer.source] / standing.running
        count = min(segment.left, int(share * STEP_S)) if standing.seats else 0
        if count:
            self.missing.remove(segment.position, segment.position + count)
            segment.position += count
            self.allotment.arrived(segment, count, self.now)
        if not segment.left or not standing.seats:
            self.allotment.segments.drop(segment, self.now)
            self.running.remove(segment)


def test_second_source_joins_soon_and_not_at_once():
    played = Played({"one": 10 * MIB, "two": 10 * MIB})
    played.play(FIRST_LOOK_S - STEP_S)
    assert played.seats() == {"one": 1, "two": 0}
    played.play(3 * STEP_S)
    assert played.seats()["two"] == 1


def test_sources_whose_rates_are_remembered_begin_together():
    played = Played({"one": 10 * MIB, "two": 10 * MIB}, priors={"one": 10.0 * MIB})
    played.play(2 * STEP_S)
    assert played.seats()["two"] == 1


def test_source_that_is_remembered_as_fast_and_says_nothing_does_not_keep_others_out():
    played = Played({"one": 0, "two": 10 * MIB}, priors={"one": 4.0 * FULL_LINE_BYTES_PER_S})
    played.play(2)
    assert played.seats()["two"] >= 1
    assert played.missing.total < GIB


def test_full_line_gets_no_second_source_and_no_second_connection():
    played = Played({"one": 2 * FULL_LINE_BYTES_PER_S, "two": 10 * MIB}, size=8 * GIB)
    played.play(2)
    assert played.seats() == {"one": 1, "two": 0}


def test_file_that_is_almost_there_gets_no_second_source():
    played = Played({"one": 16 * MIB, "two": 10 * MIB}, size=12 * MIB)
    played.play(0.5)
    assert played.seats()["two"] == 0


def test_connections_are_never_more_than_configured_and_every_source_has_one():
    played = Played(dict.fromkeys(("one", "two", "three"), 20 * MIB), connections=4, size=8 * GIB)
    seen = []
    for _ in range(30):
        played.play(RAMP_S)
        seen.append(sum(played.seats().values()))
    assert max(seen) == 4
    assert min(played.seats().values()) >= 1


def test_source_that_comes_late_takes_a_seat_from_the_fullest():
    played = Played({"one": 20 * MIB, "two": 20 * MIB}, connections=2, size=8 * GIB)
    played.standings["two"].rest_until = NOW + 5
    played.play(5)
    assert played.seats() == {"one": 2, "two": 0}
    played.play(1)
    assert played.seats() == {"one": 1, "two": 1}


def test_source_that_brings_next_to_nothing_is_let_go_of_and_tried_again_later():
    played = Played({"one": 40 * MIB, "two": MIB // 10}, size=64 * GIB)
    assert played.play(PROBE_S - 1) == []
    assert played.play(2) == ["two"]
    assert played.seats()["two"] == 0
    played.play(REJOIN_S)
    assert 1 <= played.seats()["two"] <= 2


def test_pieces_of_all_sources_take_about_the_same_time():
    played = Played({"slow": 2 * MIB, "fast": 14 * MIB}, size=4 * GIB, connections=2)
    played.play(12)
    seen = list(played.running)
    for _ in range(400):
        played.play(STEP_S)
        seen += [segment for segment in played.running if segment not in seen]
    means = {}
    for name in played.rates:
        lengths = [played.lengths[s] for s in seen if s.standing.offer.source == name]
        means[name] = sum(lengths) / len(lengths)
    assert 5 < means["fast"] / means["slow"] < 9


def test_all_sources_end_together():
    played = Played({"one": 4 * MIB, "two": 8 * MIB, "three": 16 * MIB}, size=96 * MIB)
    for _ in itertools.takewhile(lambda _: played.missing, range(1000)):
        played.play(STEP_S)
    perfect = 96 / 28
    assert played.now - NOW < 1.15 * perfect + FIRST_LOOK_S


def test_source_that_falls_silent_at_the_end_costs_about_a_second():
    played = Played({"one": 8 * MIB, "two": 8 * MIB}, size=64 * MIB)
    for _ in itertools.takewhile(lambda _: played.missing.total > 2 * MIB, range(1000)):
        played.play(STEP_S)
    played.rates["two"] = 0
    stalled_at = played.now
    for _ in itertools.takewhile(lambda _: played.missing, range(1000)):
        played.play(STEP_S)
    assert not played.missing
    assert played.now - stalled_at < 2


def test_reader_far_ahead_gets_a_connection_of_its_own():
    played = Played({"one": 2 * MIB}, size=GIB)
    played.play(2)
    played.play(0.5, wanted=[GIB // 2])
    assert any(s.position >= GIB // 2 for s in played.running)


def test_slow_source_at_the_front_does_not_keep_the_hash_waiting():
    """Of what has come, little lies beyond the first gap, though the slowest source began."""
    played = Played({"slow": 2 * MIB, "fast": 30 * MIB}, size=256 * MIB)
    behind = []
    for _ in itertools.takewhile(lambda _: played.missing, range(1000)):
        played.play(STEP_S)
        first = next((start for start, _ in played.missing), played.size)
        behind.append(played.size - played.missing.total - first)
    assert behind[-1] == 0
    assert max(behind[-10:]) < 48 * MIB
    assert max(behind) < 6 * 32 * MIB


# Sources of this site.


def test_far_source_is_not_asked_while_one_of_this_site_sends_however_slowly():
    played = Played({"near": 2 * MIB, "far": 90 * MIB}, priors={"near": 2.0 * MIB})
    played.play(20)
    assert played.seats()["near"] >= 1
    assert played.seats()["far"] == 0


def test_far_source_joins_one_of_this_site_that_gives_next_to_nothing_for_long():
    played = Played({"near": MIB, "far": 90 * MIB}, size=8 * GIB)
    played.lately = {"near": MIB, "far": 90.0 * MIB}
    played.play(HOPELESS_S - 1)
    assert played.seats()["far"] == 0
    played.play(2)
    assert played.seats()["far"] >= 1
    # It was not as fast as it was remembered: the line is full of others that do the same.
    played.lately["far"] = (HOPELESS - 1) * MIB
    played.play(1)
    assert played.seats()["far"] == 0


def test_what_was_slow_for_a_moment_or_beside_nothing_known_keeps_others_off():
    for lately in ({"near": MIB}, {"far": 90.0 * MIB}, {"near": 6.0 * MIB, "far": 90.0 * MIB}):
        played = Played({"near": MIB, "far": 90 * MIB}, size=8 * GIB)
        for _ in range(3):
            played.lately = {"near": MIB, "far": 90.0 * MIB}
            played.play(HOPELESS_S / 2)
            played.lately = lately
            played.play(1)
        assert played.seats()["far"] == 0


def test_sources_of_this_site_send_together():
    played = Played({"near": 8 * MIB, "near-too": 8 * MIB, "far": 8 * MIB})
    played.play(2)
    assert played.seats()["near-too"] >= 1
    assert played.seats()["far"] == 0


def test_far_source_stands_in_for_one_of_this_site_until_that_serves_again():
    played = Played({"near": 8 * MIB, "far": 8 * MIB}, size=4 * GIB)
    played.play(2)
    verdict = OtherSource("reset", ban=False, rest_s=REST_S)
    played.allotment.roster.apply(played.standings["near"], verdict, OSError(), played.now)
    played.play(2)
    assert played.seats()["far"] >= 2
    played.play(REST_S + 2)
    assert played.seats()["near"] >= 1
    assert played.seats()["far"] == 0


def test_source_of_this_site_that_stands_behind_a_far_one_keeps_nobody_off():
    played = Played({"far": 8 * MIB, "near": MIB})
    played.play(4)
    assert min(played.seats().values()) >= 1


def test_slow_source_of_this_site_keeps_nobody_off():
    played = Played({"near": MIB, "far": 8 * MIB})
    played.play(1)
    played.standings["near"].is_slow = True
    played.play(2)
    assert played.seats()["far"] >= 1
