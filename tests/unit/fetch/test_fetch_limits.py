import threading

from hypothesis import given
from hypothesis import strategies as st

from harness.storekit import Clock
from zhcached.fetch.limits import RateLimiter, SpeedFloor


def test_limiter_without_a_rate_never_waits():
    assert RateLimiter(0, Clock()).book(10**12) == 0.0


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=50))
def test_limiter_keeps_the_mean_rate_whatever_the_chunks(chunks):
    clock, rate = Clock(), 10**6
    limiter = RateLimiter(rate, clock)
    began = clock.monotonic()
    for chunk in chunks:
        clock.pass_s(limiter.book(chunk))
    assert abs(clock.monotonic() - began - sum(chunks) / rate) < 0.2


def test_limiter_saves_up_no_more_than_a_moment():
    clock = Clock()
    limiter = RateLimiter(1000, clock)
    clock.pass_s(3600)
    assert limiter.book(2000) > 1.5


def test_limiter_wait_ends_when_cancelled():
    cancelled = threading.Event()
    cancelled.set()
    RateLimiter(1).take(10**9, cancelled)


def drip(floor, seconds, rate, *, step=0.25, min_rate=1000.0):
    steps = int(seconds / step)
    return [floor.is_below(int(rate * step), step, min_rate) for _ in range(steps)]


def test_floor_trips_only_after_a_whole_window_below():
    verdicts = drip(SpeedFloor(30), 40, 500)
    assert verdicts.index(True) * 0.25 >= 29
    assert not any(drip(SpeedFloor(30), 120, 1100))


def test_floor_sees_silence_and_trickle():
    assert any(drip(SpeedFloor(30), 35, 0, min_rate=0.0))
    assert any(drip(SpeedFloor(30), 35, 8))
    assert not any(drip(SpeedFloor(30), 90, 8, min_rate=0.0))


def test_floor_forgets_what_was_before_the_window():
    floor = SpeedFloor(10)
    assert not any(drip(floor, 20, 10**6))
    assert any(drip(floor, 21, 10))


def test_floor_does_not_count_time_nobody_waited_for_the_source():
    floor = SpeedFloor(10)
    assert not any(floor.is_below(10, 0.0001, 1000.0) for _ in range(1000))
