from itertools import pairwise

import pytest

from zhcached.fetch.pace import WINDOW_S, Pace
from zhcached.fetch.ramp import AGAIN_S, FULL_LINE_BYTES_PER_S, RAMP_S, SHOW_S, Ramp

BEGAN, MIB = 5000.0, 2**20


class Climbed:
    """A ramp of a source whose rate is a function of its connections."""

    def __init__(self, rate_of, *, most=8):
        self.ramp, self.rate_of, self.most = Ramp(), rate_of, most
        self.connections = 1
        self.now = BEGAN

    def climb(self, seconds):
        """Returns how many connections there were after each stretch."""
        seen = []
        for _ in range(round(seconds / RAMP_S)):
            has_room = self.connections < self.most
            assert self.ramp.count(int(self.rate_of(self.connections) * RAMP_S), self.now)
            self.connections += self.ramp.step(self.now, self.connections, has_room=has_room)
            assert not self.ramp.count(0, self.now + RAMP_S / 2)
            self.now += RAMP_S
            seen.append(self.connections)
        return seen


def test_connections_join_one_at_a_time_while_each_brings_its_share():
    assert Climbed(lambda n: n * MIB).climb(9 * RAMP_S) == [1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_none_joins_while_the_line_is_full():
    assert Climbed(lambda _: FULL_LINE_BYTES_PER_S + 8).climb(3) == [1] * 12


def test_climb_ends_where_connections_only_divide_the_same_rate():
    assert max(Climbed(lambda _: MIB).climb(AGAIN_S)) == 2
    assert max(Climbed(lambda n: min(n, 4) * MIB).climb(AGAIN_S)) == 5


def test_connection_that_brought_nothing_goes_again_and_one_is_tried_later():
    seen = Climbed(lambda n: min(n, 4) * MIB).climb(3 * AGAIN_S)
    assert seen[int(AGAIN_S / RAMP_S) - 1] == 4
    assert seen.count(5) < 4 * (SHOW_S / RAMP_S + 1)
    assert len([1 for before, after in pairwise(seen) if after > before]) > 4


def test_connection_that_could_not_join_is_not_taken_away():
    assert Climbed(lambda _: MIB, most=3).climb(3 * AGAIN_S)[-1] >= 2
    assert min(Climbed(lambda n: n * MIB, most=3).climb(3 * AGAIN_S)[3:]) == 3


# The pace that all of it goes by.


def test_pace_is_the_mean_of_the_last_moments_and_falls_in_silence():
    pace = Pace()
    pace.go(BEGAN)
    for step in range(1, 21):
        pace.add(100, BEGAN + step / 10)
    assert pace.rate(BEGAN + 2) == pytest.approx(1000, rel=0.15)
    assert pace.rate(BEGAN + 2 + 2 * WINDOW_S) == 0


def test_time_in_which_nothing_is_asked_for_does_not_count():
    pace = Pace()
    pace.go(BEGAN)
    pace.add(1000, BEGAN + 0.5)
    pace.stop(BEGAN + 0.5)
    before = pace.rate(BEGAN + 0.5)
    assert pace.rate(BEGAN + 100) == before
    pace.go(BEGAN + 100)
    assert pace.rate(BEGAN + 100) == before


def test_pace_is_unknown_at_first():
    pace = Pace()
    pace.go(BEGAN)
    pace.add(1000, BEGAN + 0.01)
    assert pace.rate(BEGAN + 0.01) is None
