from hypothesis import given
from hypothesis import strategies as st

from zhcached.fetch.segments import MIN_STEAL, Segments
from zhcached.store.ranges import Ranges

MIB = 2**20


def test_segments_are_taken_from_the_front():
    segments = Segments()
    missing = Ranges([(5, 20), (30, 100)])
    taken = [segments.take(missing, 10) for _ in range(3)]
    assert [(s.position, s.end) for s in taken] == [(5, 15), (15, 20), (30, 40)]


def test_idle_connection_takes_the_later_half_of_the_largest():
    segments = Segments()
    small = segments.take(Ranges([(0, 4 * MIB)]), 4 * MIB)
    large = segments.take(Ranges([(10 * MIB, 20 * MIB)]), 10 * MIB)
    stolen = segments.take(Ranges(), MIB)
    assert (stolen.position, stolen.end, large.end) == (15 * MIB, 20 * MIB, 15 * MIB)
    assert small.end == 4 * MIB


def test_nothing_is_stolen_when_the_halves_would_be_small():
    segments = Segments()
    segments.take(Ranges([(0, 2 * MIN_STEAL - 1)]), 10 * MIB)
    assert segments.take(Ranges(), MIB) is None


def test_dropped_segment_is_free_again():
    segments = Segments()
    missing = Ranges([(0, 100)])
    first = segments.take(missing, 100)
    first.position = 40
    segments.drop(first)
    assert segments.unassigned(Ranges([(40, 100)])) == Ranges([(40, 100)])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7), st.integers(1, 3 * MIB))))
def test_segments_never_overlap_and_never_leave_a_gap(steps):
    """Whatever is taken, moved on, stolen or dropped, each missing byte has one owner or none."""
    segments, missing, running = Segments(), Ranges([(0, 16 * MIB)]), []
    for kind, which, amount in steps:
        if kind == 0 and (taken := segments.take(missing, amount)):
            running.append(taken)
        elif running and kind == 1:
            segment = running[which % len(running)]
            moved = min(segment.end, segment.position + amount)
            missing.remove(segment.position, moved)
            segment.position = moved
        elif running:
            segments.drop(running.pop(which % len(running)))
        owned = Ranges((s.position, s.end) for s in running if s.left)
        assert owned.total == sum(s.left for s in running)
        free = segments.unassigned(missing)
        assert free.total + owned.total == missing.total
