"""A call goes home, or to where its model is warm; waiting that is saved moves it, and slowly."""

import pytest

from zhcache.cluster.route import Seen, choose

M = "org/m"


def seen(name, **fields):
    warm = frozenset({M}) if fields.pop("warm", False) else frozenset()
    return Seen(replica=name, node=name, warm=warm, **{"load_s": 10.0, **fields})


@pytest.mark.parametrize(
    ("replicas", "chosen"),
    [
        ([seen("a"), seen("b")], "a"),
        ([seen("a"), seen("b", warm=True)], "b"),
        ([seen("a", warm=True), seen("b", warm=True)], "a"),
        # Busy homes are waited for, until it would cost less to load elsewhere.
        ([seen("a", warm=True, queue_s=35), seen("b")], "a"),
        ([seen("a", warm=True, queue_s=45), seen("b")], "b"),
        ([seen("a", queue_s=35), seen("b")], "b"),
        # Where it is warm already it goes sooner.
        ([seen("a", warm=True, queue_s=2), seen("b", warm=True)], "a"),
        ([seen("a", warm=True, queue_s=4), seen("b", warm=True)], "b"),
        # Warm away from home: home loads it only when that place is far behind.
        ([seen("a"), seen("b", warm=True, queue_s=35)], "b"),
        ([seen("a"), seen("b", warm=True, queue_s=45)], "a"),
        # What was sent since the last word counts.
        ([seen("a", warm=True, sent=45, depth=64, call_s=1.0), seen("b")], "b"),
        ([seen("a", warm=True, sent=45), seen("b")], "a"),
        # But no more than it takes: Serve sends many at once, which are refused and come back.
        ([seen("a", warm=True, sent=200, depth=8, call_s=1.0), seen("b")], "a"),
        # A daemon that does not answer is passed by, but for want of another.
        ([seen("a", warm=True, is_up=False), seen("b")], "b"),
        ([seen("a", is_up=False), seen("b", is_up=False)], "a"),
        ([seen("b"), seen("c", queue_s=1)], "b"),
        ([], None),
    ],
)
def test_where_a_call_goes(replicas, chosen):
    assert choose(M, "a", replicas, 30.0) == chosen


def test_burst_for_a_cold_model_goes_to_one_place():
    sent = {"a": 0, "b": 0}
    for _ in range(100):
        replicas = [seen(name, sent=count) for name, count in sent.items()]
        sent[choose(M, "b", replicas, 30.0)] += 1
    assert sent == {"a": 0, "b": 100}
