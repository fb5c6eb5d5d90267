"""The machine's rate by the time of day."""

import threading
import time

import pytest

from harness.storekit import Clock
from zhcached.config import WindowConfig
from zhcached.config.hours import Rates, Span, is_open, minute_of_day, parse_span
from zhcached.fetch.limits import RateLimiter

NIGHT = WindowConfig("23:00", "07:00", 0)
NOON = WindowConfig("12:00", "13:30", 500)


@pytest.fixture
def zone(monkeypatch):
    """Sets the machine's time zone."""

    def use(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


def at(text):
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


@pytest.mark.parametrize(
    ("moment", "rate"),
    [("22:59", 100), ("23:00", 0), ("00:00", 0), ("06:59", 0), ("07:00", 100), ("12:30", 500)],
)
def test_rate_is_that_of_the_window_over_midnight_too(moment, rate):
    assert Rates(100, [NIGHT, NOON], Clock().wall).at(at(moment)) == rate


def test_first_of_several_windows_counts():
    whole_day = WindowConfig("00:00", "24:00", 7)
    assert Rates(100, [NOON, whole_day], Clock().wall).at(at("12:30")) == 500
    assert Rates(100, [whole_day, NOON], Clock().wall).at(at("12:30")) == 7


def test_span_that_ends_where_it_begins_is_the_whole_day():
    assert all(Span(480, 480).holds(minute) for minute in range(24 * 60))


def test_hours_are_open_as_they_say_and_always_where_they_say_nothing():
    assert parse_span("") is None
    assert is_open("", at("12:00"))
    assert [is_open("22:00-07:00", at(t)) for t in ("21:59", "22:00", "06:59", "07:00")] == [
        False, True, True, False,
    ]  # fmt: skip


def test_summer_time_changes_what_holds_and_breaks_nothing(zone):
    zone("Europe/Berlin")
    # 2026-03-29: 01:59 CET is followed by 03:00 CEST. 2026-10-25: 02:59 CEST by 02:00 CET.
    spring, autumn = 1774746000, 1792890000
    assert [minute_of_day(spring + s) for s in (-60, 0)] == [at("01:59"), at("03:00")]
    assert [minute_of_day(autumn + s) for s in (-60, 0)] == [at("02:59"), at("02:00")]
    rates = Rates(100, [WindowConfig("02:00", "03:00", 5)], Clock().wall)
    assert [rates.at(minute_of_day(spring + s)) for s in (-60, 0)] == [100, 100]
    assert [rates.at(minute_of_day(autumn + s)) for s in (-60, 0)] == [5, 5]


def test_limiter_changes_its_rate_with_the_window_and_forgives_old_debts(zone):
    zone("UTC")
    clock = Clock(wall=86400 * 20000 + 3600 * 22 + 59 * 60 + 59)
    limiter = RateLimiter(Rates(1000, [NIGHT], clock.wall), clock)
    assert limiter.book(100_000) > 90
    clock.pass_s(1)
    assert (limiter.bytes_per_s, limiter.book(100_000)) == (0, 0.0)
    clock.pass_s(8 * 3600)
    assert limiter.bytes_per_s == 1000
    assert limiter.book(1000) <= 1.0


def test_debt_of_another_rate_is_forgiven():
    rate = [10]
    limiter = RateLimiter(lambda: rate[0], Clock())
    assert limiter.book(1000) > 90
    rate[0] = 1000
    assert limiter.book(100) < 0.2
    assert limiter.book(1000) > 0.9


def test_debt_is_not_waited_for_once_another_rate_holds():
    rate, waits = [1], []

    class Never(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            rate[0] = 0
            return False

    RateLimiter(lambda: rate[0]).take(10**6, Never())
    assert len(waits) == 1
