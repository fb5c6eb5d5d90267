import pytest

from zhcached.fetch.pace import WINDOW_S, Pace
from zhcached.fetch.ramp import AGAIN_S, FULL_LINE_BYTES_PER_S, RAMP_S, SHOW_S, Ramp

BEGAN = 5000.0


def stretch(ramp, number, rate, connections):
    return ramp.wants_more(int(rate * RAMP_S), BEGAN + number * RAMP_S, connections)


def test_ramp_asks_for_one_more_at_the_end_of_each_slow_stretch():
    ramp = Ramp()
    assert [ramp.wants_more(1000, BEGAN + step * RAMP_S / 2, 1) for step in range(6)] == [
        False, False, True, False, True, False,
    ]  # fmt: skip


def test_ramp_asks_for_none_while_the_line_is_full():
    ramp = Ramp()
    ramp.wants_more(1, BEGAN, 1)
    full = int(FULL_LINE_BYTES_PER_S * RAMP_S)
    assert not ramp.wants_more(full, BEGAN + RAMP_S, 1)
    assert ramp.wants_more(full - 1, BEGAN + 2 * RAMP_S, 1)


def test_ramp_goes_on_while_each_connection_brings_its_share():
    ramp = Ramp()
    stretch(ramp, 0, 0, 1)
    assert all(stretch(ramp, n, n * 1000, n) for n in range(1, 8))


def test_ramp_ends_where_connections_only_divide_the_same_rate_and_tries_again_later():
    ramp, later = Ramp(), int((SHOW_S + AGAIN_S) / RAMP_S)
    stretch(ramp, 0, 0, 1)
    asked = [stretch(ramp, n, 1000, 1 if n == 1 else 2) for n in range(1, later)]
    assert asked[0]
    assert 1 <= sum(asked[1:]) <= 2
    assert not any(asked[1 : int(SHOW_S / RAMP_S)])


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
