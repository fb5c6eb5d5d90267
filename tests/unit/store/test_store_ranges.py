import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcached.store.ranges import Ranges

LIMIT = 60
pairs = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)).map(lambda p: (min(p), max(p)))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), pairs), max_size=30)


def played(script):
    ranges, model = Ranges(), set()
    for kind, (start, end) in script:
        getattr(ranges, kind)(start, end)
        model = model | set(range(start, end)) if kind == "add" else model - set(range(start, end))
    return ranges, model


@given(steps, pairs)
def test_ranges_equal_a_set_of_offsets(script, window):
    ranges, model = played(script)
    start, end = window
    assert {i for a, b in ranges for i in range(a, b)} == model
    assert ranges.total == len(model)
    assert {i for a, b in ranges.gaps(LIMIT) for i in range(a, b)} == set(range(LIMIT)) - model
    inside = {i for a, b in ranges.gaps_within(start, end) for i in range(a, b)}
    assert inside == set(range(start, end)) - model
    assert ranges.contains(start, end) == set(range(start, end)).issubset(model)
    assert ranges.first_gap(start) == next(i for i in range(start, LIMIT + 2) if i not in model)


@given(steps)
def test_ranges_stay_sorted_disjoint_and_not_touching(script):
    ranges, _ = played(script)
    flat = [offset for pair in ranges for offset in pair]
    assert flat == sorted(set(flat))
    assert Ranges.from_pairs(reversed(ranges.pairs())) == ranges
    assert bool(ranges) == bool(ranges.pairs())


@given(steps)
def test_ranges_copy_is_independent(script):
    ranges, _ = played(script)
    twin = ranges.copy()
    twin.add(0, LIMIT + 1)
    twin.remove(3, 4)
    assert ranges == played(script)[0]


@pytest.mark.parametrize("bad", [(-1, 2), (3, 2)])
def test_ranges_refuse_what_is_no_interval(bad):
    with pytest.raises(ValueError, match="not an interval"):
        Ranges().add(*bad)
    with pytest.raises(ValueError, match="not an interval"):
        Ranges().remove(*bad)
