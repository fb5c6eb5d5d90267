"""When followed models are looked at, which revisions go, and what is news: all of it pure."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhcached.jobs.following import schedule
from zhcached.jobs.following.followed import Entry
from zhcached.jobs.following.look import telling
from zhcached.jobs.following.outdated import outdated

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


@settings(max_examples=40)
@given(st.floats(1, 1e7), st.integers(0, 50), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_jitter_moves_a_pause_by_its_share_at_most(every, failures, jitter, chance):
    base = schedule.pause(every, failures, 0.0, middle)
    moved = schedule.pause(every, failures, jitter, lambda: chance)
    assert abs(moved - base) <= base * jitter * 1.000001 + 1e-9
    assert schedule.believed(1e12 + moved, 1e12, every, jitter) == pytest.approx(1e12 + moved)


def test_look_that_lies_further_ahead_than_any_pause_is_not_waited_for():
    assert schedule.believed(1e9 + 365 * DAY, 1e9, HOUR, 0.0) == 1e9 + 4 * HOUR
    assert schedule.believed(5.0, 1e9, HOUR, 0.0) == 5.0


@settings(max_examples=40)
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
    ("heads", "before", "teller"),
    [
        # Nothing is remembered: the first source's word.
        ({"hub": "new"}, {}, "hub"),
        ({"ms": "other", "hub": "now"}, {}, "ms"),
        # Who named what is here names another.
        ({"hub": "new"}, {"hub": "now"}, "hub"),
        ({"mirror": "now", "hub": "new"}, {"hub": "now", "mirror": "now"}, "hub"),
        # A mirror that lags behind, asked first or alone, or another kind of hub.
        ({"mirror": "old", "hub": "now"}, {"hub": "now", "mirror": "old"}, None),
        ({"mirror": "old"}, {"hub": "now", "mirror": "old"}, None),
        ({"mirror": "old"}, {"hub": "now"}, None),
        ({"ms": "other", "hub": "now"}, {"hub": "now"}, None),
        ({"ms": "other", "hub": "now"}, {"hub": "now", "ms": "before"}, None),
        # It alone answers, and has another than before.
        ({"ms": "other"}, {"hub": "now", "ms": "before"}, "ms"),
        # The branch was put back; not as long as somebody names the newer one.
        ({"hub": "old"}, {"hub": "now"}, "hub"),
        ({"hub": "old", "mirror": "now"}, {"hub": "now", "mirror": "now"}, None),
        # Who named it is not asked any more.
        ({"mirror": "new"}, {"gone": "now"}, "mirror"),
    ],
)
def test_word_that_counts_is_of_who_named_what_is_here(heads, before, teller):
    vouchers = tuple(name for name, head in before.items() if head == "now")
    entry = Entry(repo="a/b", uid=1, past=("old",), vouchers=vouchers, heads=before)
    known = {"hub", "mirror", "ms"}
    assert telling(next(iter(heads)), heads, "now", entry, known) == teller


def test_source_that_is_silent_still_vouches_for_what_it_named():
    entry = Entry(repo="a/b", uid=1, commit="now", vouchers=("hub",), heads={"hub": "now"})
    kept = entry.fresh("now", ["mirror"], {"mirror": "now", "ms": "other"}, None)
    assert set(kept.vouchers) == {"hub", "mirror"}
    assert kept.heads == {"hub": "now", "mirror": "now", "ms": "other"}
    assert entry.fresh("new", ["mirror"], {"mirror": "new"}, "now").vouchers == ("mirror",)
