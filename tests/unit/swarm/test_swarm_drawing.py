"""Which of the machines that draw from web seeds draws a blob, and when another takes its place."""

from zhcached.fetch.nearby import rank
from zhcached.swarm.tier import DRAW_AFTER_S, is_turn

STALL_S = 30.0


def test_one_machine_draws_a_blob_and_the_next_only_where_nothing_comes():
    drawers = {"one", "two"}
    for sha256 in ("ab" * 32, "cd" * 32, "ef" * 32):
        before = sorted(rank(sha256, own, drawers - {own}) for own in drawers)
        assert [is_turn(n, 0.0, STALL_S) for n in before] == [True, False]
        assert [is_turn(n, DRAW_AFTER_S, STALL_S) for n in before] == [True, True]


def test_blobs_are_spread_over_those_who_draw():
    firsts = {rank(f"{n:064x}", "one", {"two"}) for n in range(20)}
    assert firsts == {0, 1}


def test_who_knows_of_nobody_else_draws_at_once():
    assert is_turn(rank("ab" * 32, "one", ()), 0.0, STALL_S)


def test_turn_comes_before_the_swarm_is_given_up():
    assert is_turn(9, STALL_S / 2, STALL_S)
    assert not is_turn(9, STALL_S / 2 - 0.1, STALL_S)
    assert is_turn(1, 1.0, 2.0)
