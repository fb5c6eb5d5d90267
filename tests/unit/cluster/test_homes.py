"""Every model has one home, evenly dealt, and keeps it when another's node is lost."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zhcache.cluster.homes import home, homes

NAMES = st.text("abcdef/-", min_size=1, max_size=8)


@given(st.sets(NAMES, max_size=20), st.sets(NAMES, min_size=1, max_size=6))
def test_models_are_dealt_evenly(models, nodes):
    dealt = homes(models, nodes)
    assert dealt.keys() == models
    assert max(Counter(dealt.values()).values(), default=0) <= -(-len(models) // len(nodes))


@given(st.permutations([f"org/{n}" for n in range(6)]), st.permutations(["a", "b", "c"]))
def test_order_in_which_they_are_named_does_not_matter(models, nodes):
    assert homes(models, nodes) == homes(sorted(models), sorted(nodes))


def test_most_models_of_other_nodes_stay_when_one_is_lost():
    models = [f"org/{n}" for n in range(24)]
    before = homes(models, ["a", "b", "c", "d"])
    after = homes(models, ["a", "b", "c"])
    stayed = [m for m in models if before[m] != "d" and before[m] == after[m]]
    assert len(stayed) >= 15, (before, after)


def test_without_nodes_there_is_no_home():
    assert homes(["org/a"], []) == {}
    assert home("org/a", []) is None


def test_home_of_an_unknown_model_moves_only_with_its_node():
    nodes = ["a", "b", "c", "d"]
    for number in range(50):
        model = f"org/{number}"
        at = home(model, nodes)
        for lost in nodes:
            left = [node for node in nodes if node != lost]
            assert (home(model, left) == at) == (lost != at)


def test_unknown_models_are_spread():
    count = Counter(home(f"org/{number}", ["a", "b"]) for number in range(100))
    assert min(count.values()) > 30
