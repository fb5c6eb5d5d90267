"""A node's queue by model: few loads, nobody starves, and overload does not undo it."""

from hypothesis import given
from hypothesis import strategies as st

from zhcache.cluster.order import Turns, Waiting, next_call, queue_s

TURNS = Turns(age_s=10.0, share_s=5.0)


def chosen(models, warm=(), *, elsewhere=None, waited=1.0, now=100.0, turn_began=95.0):
    waiting = [Waiting(model, now - waited) for model in models]
    return next_call(waiting, warm, elsewhere or {}, TURNS, now, turn_began)


def test_warm_models_go_first_and_the_oldest_of_them():
    assert chosen("abcb", "bc") == 1
    assert chosen("abcb") == 0


def test_nothing_waits():
    assert chosen("") is None


def test_overdue_call_ends_a_turn_that_lasted_as_long():
    assert chosen("ab", "b", waited=10, turn_began=90) == 0


def test_overdue_call_waits_for_a_turn_that_is_young():
    assert chosen("ab", "b", waited=10, turn_began=91) == 1


def test_model_that_another_lane_has_is_left_to_it():
    assert chosen("aab", elsewhere={"a": 4.0}) == 2
    assert chosen("aa", elsewhere={"a": 4.0}) is None


def test_model_that_another_lane_has_is_loaded_where_its_calls_would_wait_long():
    assert chosen("aab", elsewhere={"a": 5.0}) == 0


def loads(models, slots, call_s=1.0, load_s=10.0, turns=TURNS):
    """Plays a queue that is all there at once; returns loads, and how long each call waited."""
    left = [Waiting(model, 0.0) for model in models]
    warm, now, began, count, waits = [], 0.0, 0.0, 0, []
    while left:
        call = left.pop(next_call(left, warm, {}, turns, now, began))
        if call.model not in warm:
            count += 1
            now += load_s
            began = now
            warm = [*warm, call.model][-slots:]
        now += call_s
        waits.append(now)
    return count, waits


def test_under_overload_models_are_loaded_once_a_turn_and_not_once_a_call():
    models = "abcabcabc" * 20
    count, _ = loads(models, slots=1)
    assert count <= 3 * 60 // 10 + 3
    by_age, _ = loads(models, slots=1, turns=Turns(age_s=0.0))
    assert by_age > 5 * count


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_every_call_is_made_and_no_model_waits_longer_than_all_turns(models):
    count, waits = loads(models, slots=2)
    assert len(waits) == len(models)
    assert count >= len(set(models))


def test_seconds_that_a_queue_takes():
    assert queue_s("aab", "a", {"a": 2.0}, 10.0, 3.0, 1) == 17.0
    assert queue_s("aab", "ab", {"a": 2.0}, 10.0, 3.0, 2) == 3.5
    assert queue_s("", "", {}, 10.0, 3.0, 1) == 0.0
