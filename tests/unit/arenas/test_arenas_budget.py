"""What goes when room is needed: pure, so all of it is checked."""

from hypothesis import given
from hypothesis import strategies as st

from zhcached.residency.arena.budget import Evict, Item, TooLarge, Wait, plan


def item(key, size=10, used=0.0, **more):
    return Item(key=key, bytes=size, used=used, **more)


def test_nothing_goes_while_there_is_room():
    assert plan([item("a"), item("b")], 10, 30) == Evict([])


def test_longest_unused_goes_first():
    assert plan([item("new", used=2), item("old", used=1)], 10, 20) == Evict(["old"])


def test_expired_goes_before_older_and_kept_goes_last():
    items = [item("kept", used=0, is_kept=True), item("old", used=1), item("over", is_expired=True)]
    assert plan(items, 10, 30) == Evict(["over"])
    assert plan(items, 20, 30) == Evict(["over", "old"])
    assert plan(items, 30, 30) == Evict(["over", "old", "kept"])


def test_leased_never_goes_and_is_named():
    items = [item("a", holders=("pid 2",)), item("b", holders=("pid 1", "pid 2")), item("c")]
    assert plan(items, 20, 30) == Wait(["pid 1", "pid 2"])


def test_what_others_have_counts():
    assert plan([item("a")], 10, 20, elsewhere=5) == Evict(["a"])
    assert plan([], 10, 20, elsewhere=15) == Wait([])


def test_what_never_fits_is_told_apart_from_what_must_wait():
    assert plan([item("a", holders=("x",))], 31, 30) == TooLarge(1)


def test_small_ones_stay_if_a_large_one_does():
    items = [item("small", size=1, used=1), item("large", size=50, used=2)]
    assert plan(items, 50, 60) == Evict(["large"])


ITEMS = st.lists(
    st.builds(
        Item,
        key=st.uuids().map(str),
        bytes=st.integers(1, 50),
        used=st.floats(0, 100),
        holders=st.sampled_from([(), (), ("x",)]),
        is_expired=st.booleans(),
        is_kept=st.booleans(),
    ),
    max_size=12,
)


@given(ITEMS, st.integers(0, 80), st.integers(1, 100), st.integers(0, 20))
def test_a_plan_makes_room_and_no_part_of_it_was_needless(items, need, capacity, elsewhere):
    decided = plan(items, need, capacity, elsewhere)
    full = sum(one.bytes for one in items) + elsewhere + need - capacity
    idle = {one.key: one.bytes for one in items if not one.holders}
    if isinstance(decided, Evict):
        assert set(decided.keys) <= set(idle)
        left = full - sum(idle[key] for key in decided.keys)
        assert left <= 0
        assert all(left + idle[key] > 0 for key in decided.keys)
    elif isinstance(decided, Wait):
        assert full > sum(idle.values())
    else:
        assert need > capacity
