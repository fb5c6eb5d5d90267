import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.fetchkit import MIB, offer
from zhcached.fetch.roster import Standing
from zhcached.fetch.segments import SILENT_S, Segments
from zhcached.fetch.shares import MAX_PIECE, MIN_PIECE, MIN_STEAL, piece_bytes, stolen_bytes
from zhcached.store.ranges import Ranges

NOW = 5000.0


def source(name="hub", rate=None):
    return Standing(offer(name, "http://hub.example/f", rate=rate))


def spans(segments):
    return [(segment.position, segment.end) for segment in segments]


# Free stretches.


def test_segments_are_taken_from_the_front():
    segments, hub, missing = Segments(), source(), Ranges([(5, 20), (30, 100)])
    taken = [
        segments.take(segments.unassigned(missing), 10, hub, NOW),
        segments.take(segments.unassigned(missing), 10, hub, NOW),
        segments.take(segments.unassigned(missing), 10, hub, NOW),
    ]
    assert spans(taken) == [(5, 15), (15, 20), (30, 40)]
    assert hub.running == 3


def test_wanted_offset_and_what_follows_it_come_first():
    segments, hub, missing = Segments(), source(), Ranges([(0, 60)])
    wanted = [47]
    taken = [segments.take(segments.unassigned(missing), 10, hub, NOW, wanted) for _ in range(3)]
    assert spans(taken) == [(47, 57), (57, 60), (0, 10)]


def test_dropped_segment_is_free_again():
    segments, hub, missing = Segments(), source(), Ranges([(0, 100)])
    first = segments.take(missing, 100, hub, NOW)
    first.position = 40
    segments.drop(first, NOW)
    assert segments.unassigned(Ranges([(40, 100)])) == Ranges([(40, 100)])
    assert hub.running == 0


# Stealing.


def test_idle_connection_takes_from_the_stretch_that_would_end_last():
    segments, slow, fast = Segments(), source("slow", MIB), source("fast", 3 * MIB)
    near = segments.take(Ranges([(0, 4 * MIB)]), 4 * MIB, slow, NOW)
    far = segments.take(Ranges([(10 * MIB, 30 * MIB)]), 20 * MIB, source("third", 2 * MIB), NOW)
    fast.latency_s = 0.0
    stolen = segments.steal(fast, NOW)
    assert (stolen.end, far.end) == (30 * MIB, stolen.position)
    assert (stolen.end - stolen.position) / (20 * MIB) == pytest.approx(0.6, abs=0.01)
    assert near.end == 4 * MIB


def test_silent_stretch_is_taken_over_whole_and_its_next_sender_is_given_longer():
    segments, stalled, good = Segments(), source("stalled"), source("good", MIB)
    victim = segments.take(Ranges([(0, 1000)]), 1000, stalled, NOW)
    assert segments.steal(good, NOW + 0.9 * SILENT_S) is None
    stolen = segments.steal(good, NOW + SILENT_S)
    assert spans([victim, stolen]) == [(0, 0), (0, 1000)]
    assert victim.was_lost
    assert stolen.patience_s == 2 * SILENT_S


def test_source_that_is_stalled_itself_takes_nothing_over():
    segments, stalled, other = Segments(), source("stalled"), source("other")
    segments.take(Ranges([(0, 1000)]), 1000, other, NOW)
    mine = segments.take(Ranges([(1000, 2000)]), 1000, stalled, NOW)
    mine.heard(1, NOW)
    segments.drop(mine, NOW + 10)
    assert stalled.share(NOW + 10) == 0
    assert segments.steal(stalled, NOW + 10) is None
    assert segments.steal(stalled, NOW + 10, is_alone=True) is not None


def test_reader_far_into_a_running_stretch_is_served_from_where_it_waits():
    segments, slow, good = Segments(), source("slow", MIB), source("good", MIB)
    victim = segments.take(Ranges([(0, 50 * MIB)]), 50 * MIB, slow, NOW)
    assert segments.claim([MIB // 2], good, NOW) is None
    taken = segments.claim([30 * MIB], good, NOW)
    assert spans([victim, taken]) == [(0, 30 * MIB), (30 * MIB, 50 * MIB)]


def test_source_takes_nothing_from_itself_that_it_is_about_to_end():
    for left, taken in [(3, False), (30, True)]:
        segments, one, other = Segments(), source("one", 4 * MIB), source("other", 4 * MIB)
        running = segments.take(Ranges([(0, left * MIB)]), left * MIB, one, NOW)
        # Most of it is on the way and would come twice.
        assert (segments.steal(one, NOW) is not None) == taken
        assert running.end == (left * MIB if not taken else running.end)
        assert segments.steal(other, NOW) is not None


def test_hopeless_connection_loses_everything_and_an_equal_one_what_is_fair():
    assert stolen_bytes(8 * MIB, MIB, 100 * MIB, 0.1) == 8 * MIB
    assert stolen_bytes(8 * MIB, MIB, MIB, 0.0) == 4 * MIB
    assert stolen_bytes(MIN_STEAL, MIB, MIB, 0.0) == 0
    assert stolen_bytes(100, 0.0, MIB, 0.1) == 100


def test_pieces_take_the_same_time_within_bounds():
    assert piece_bytes(8 * MIB, 10**12, 1) == 4 * piece_bytes(2 * MIB, 10**12, 1)
    assert piece_bytes(1.0, 10**12, 1) == MIN_PIECE
    assert piece_bytes(10.0**12, 10**12, 1) == MAX_PIECE
    assert piece_bytes(8 * MIB, 16 * MIB, 4) == 4 * MIB
    assert piece_bytes(None, 16 * MIB, 4) == 2 * MIB


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(1, 3 * MIB))))
def test_segments_never_overlap_and_never_leave_a_gap(steps):
    """Whatever is taken, moved on, stolen or dropped, each missing byte has one owner or none."""
    segments, missing, running = Segments(), Ranges([(0, 16 * MIB)]), []
    sources = [source("one", MIB), source("two", 5 * MIB)]
    for second, (kind, which, amount) in enumerate(steps):
        now, standing = NOW + second / 2, sources[which % 2]
        taken = None
        if kind == 0:
            taken = segments.take(segments.unassigned(missing), amount, standing, now)
        elif kind == 1:
            taken = segments.steal(standing, now)
        elif running and kind == 2:
            segment = running[which % len(running)]
            moved = max(segment.position, min(segment.end, segment.position + amount))
            missing.remove(segment.position, moved)
            segment.position = moved
        elif running:
            segments.drop(running.pop(which % len(running)), now)
        if taken:
            running.append(taken)
        owned = Ranges((s.position, s.end) for s in running if s.left)
        assert owned.total == sum(s.left for s in running)
        free = segments.unassigned(missing)
        assert free.total + owned.total == missing.total
