"""When followed models are looked at, which revisions go, and what is news: all of it pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcached.jobs import schedule
from zhcached.jobs.followed import Entry
from zhcached.jobs.look import is_stale
from zhcached.jobs.outdated import outdated

HOUR, DAY = 3600.0, 86400.0


def middle():
    return 0.5


@pytest.mark.parametrize(
    ("every", "failures", "pause"),
    [
        (6 * HOUR, 0, 6 * HOUR),
        (6 * HOUR, 1, 12 * HOUR),
        (6 * HOUR, 2, 24 * HOUR),
        (6 * HOUR, 9, 24 * HOUR),
        (12 * HOUR, 2, DAY),
        (7 * DAY, 5, 7 * DAY),
        (1.0, 1000, 4.0),
    ],
)
def test_pause_doubles_with_failures_up_to_four_times_or_a_day(every, failures, pause):
    assert schedule.pause(every, failures, 0.1, middle) == pause


@given(st.floats(1, 1e7), st.integers(0, 50), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_jitter_moves_a_pause_by_its_share_at_most(every, failures, jitter, chance):
    base = schedule.pause(every, failures, 0.0, middle)
    moved = schedule.pause(every, failures, jitter, lambda: chance)
    assert abs(moved - base) <= base * jitter * 1.000001 + 1e-9
    assert schedule.believed(1e12 + moved, 1e12, every, jitter) == pytest.approx(1e12 + moved)


def test_look_that_lies_further_ahead_than_any_pause_is_not_waited_for():
    assert schedule.believed(1e9 + 365 * DAY, 1e9, HOUR, 0.0) == 1e9 + 4 * HOUR
    assert schedule.believed(5.0, 1e9, HOUR, 0.0) == 5.0


@given(st.dictionaries(st.text(min_size=1), st.floats(1, 1e6), max_size=30))
def test_missed_looks_are_spread_in_their_order(missed):
    due = schedule.spread(missed, 1000.0, middle)
    assert list(due) == list(missed)
    assert sorted(due.values()) == list(due.values())
    assert all(1000.0 <= at <= 1000.0 + schedule.STEP_S * len(missed) for at in due.values())


@pytest.mark.parametrize(
    ("brought", "past", "keep", "gone"),
    [
        ("", "", 1, ""),
        ("ab", "a", 1, ""),
        ("ab", "a", 0, "a"),
        ("abc", "ab", 1, "a"),
        ("abcd", "abc", 2, "a"),
        # What a user brought himself is no business of ours, and takes no place.
        ("bc", "ab", 1, ""),
        # What never was whole goes first, and takes no place either.
        ("abc", "a", 1, "b"),
    ],
)
def test_revisions_go_beyond_those_to_keep(brought, past, keep, gone):
    current = brought[-1:]
    assert outdated(tuple(brought), tuple(past), current, keep) == list(gone)


@pytest.mark.parametrize(
    ("told", "heads", "vouchers", "stale"),
    [
        ("new", {"hub": "new"}, ("hub",), False),
        # A mirror that lags behind, asked first or alone.
        ("old", {"mirror": "old", "hub": "now"}, ("hub",), True),
        ("old", {"mirror": "old"}, ("hub",), True),
        # Who named the newer one names the older one now: it was put back.
        ("old", {"hub": "old"}, ("hub",), False),
        ("old", {"hub": "old", "mirror": "now"}, ("hub", "mirror"), True),
    ],
)
def test_old_revision_counts_only_from_who_named_the_newer_one(told, heads, vouchers, stale):
    entry = Entry(repo="a/b", uid=1, past=("old",), vouchers=vouchers)
    assert is_stale(told, "now", heads, entry) is stale
