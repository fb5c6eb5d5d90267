import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcached.sources.ranking import Delivered, Failed, Health, Lied, Limited, observe, rank

NOW = 1_800_000_000.0
MIB = 2**20


def after(*events, now=NOW):
    health = Health()
    for event in events:
        health = observe(health, event, now)
    return health


def order(health, now=NOW, names=("a", "b", "c")):
    return [entry.name for entry in rank(names, health, now)]


def states(health, now=NOW, names=("a", "b", "c")):
    return {entry.name: entry.state for entry in rank(names, health, now)}


def test_rank_keeps_configured_order_when_nothing_is_known():
    assert order({}) == ["a", "b", "c"]
    assert set(states({}).values()) == {"unknown"}


def test_rank_puts_the_clearly_faster_source_first():
    health = {"a": after(Delivered(10 * MIB, 10)), "b": after(Delivered(100 * MIB, 10))}
    assert order(health) == ["b", "a", "c"]


def test_rank_keeps_configured_order_between_nearly_equal_rates():
    health = {"a": after(Delivered(10 * MIB, 10)), "b": after(Delivered(11 * MIB, 10))}
    assert order(health) == ["a", "b", "c"]


def test_rank_orders_the_states_and_names_reasons():
    health = {
        "ok": after(Delivered(10 * MIB, 1)),
        "slow": after(Delivered(MIB, 100)),
        "limited": after(Limited(30)),
        "down": after(*[Failed("connection refused")] * 3),
        "lying": after(Lied("unet/x did not hash to its promise")),
    }
    names = ("lying", "down", "limited", "slow", "new", "ok")
    ranked = rank(names, health, NOW)
    assert [entry.name for entry in ranked] == ["ok", "new", "slow", "limited", "down", "lying"]
    reasons = {entry.name: entry.reason for entry in ranked}
    assert "connection refused" in reasons["down"]
    assert "unet/x" in reasons["lying"]
    assert "30 s" in reasons["limited"]


def test_source_is_down_after_repeated_failures_and_comes_back_with_time():
    health = {"a": after(*[Failed("reset")] * 4)}
    assert states(health)["a"] == "down"
    assert states(health, NOW + 1200)["a"] == "unknown"


def test_one_failure_does_not_take_a_source_down():
    assert states({"a": after(Delivered(MIB, 0.1), Failed("reset"))})["a"] == "ok"


def test_success_ends_being_down():
    assert states({"a": after(*[Failed("reset")] * 9, Delivered(0, 0.1))})["a"] == "unknown"


def test_lie_is_remembered_for_days_and_through_successes():
    health = {"a": after(Lied("wrong bytes"), Delivered(100 * MIB, 1))}
    assert states(health, NOW + 86400)["a"] == "lying"
    assert states(health, NOW + 15 * 86400)["a"] == "unknown"


def test_limit_ends_at_its_time():
    health = {"a": after(Limited(60), Limited(10))}
    assert states(health, NOW + 59)["a"] == "limited"
    assert states(health, NOW + 61)["a"] == "unknown"


def test_rate_follows_a_change_and_expires():
    health = after(Delivered(100 * MIB, 1))
    for _ in range(10):
        health = observe(health, Delivered(10 * MIB, 10), NOW)
    assert health.rate == pytest.approx(MIB, rel=1)
    assert states({"a": health}, NOW + 90_000)["a"] == "unknown"


def test_small_answers_do_not_measure_the_line():
    assert after(Delivered(1000, 1.0)).rate is None


def test_clock_that_jumps_back_ages_nothing():
    health = after(*[Failed("reset")] * 4)
    assert states({"a": health}, NOW - 3 * 86400)["a"] == "down"


def test_rate_is_finite_however_short_the_transfer():
    health = {"a": after(Delivered(MIB, 5e-324), Delivered(MIB, 5e-324))}
    assert states(health)["a"] == "ok"
    assert health["a"].rate == pytest.approx(1000 * MIB)


def test_health_survives_json():
    health = after(Delivered(MIB, 1), Failed("x"), Lied("y"), Limited(5))
    assert msgspec.json.decode(msgspec.json.encode(health), type=Health) == health


EVENTS = st.one_of(
    st.builds(Delivered, st.integers(0, 10**12), st.floats(0, 1e6)),
    st.builds(Failed, st.text(max_size=5)),
    st.builds(Lied, st.text(max_size=5)),
    st.builds(Limited, st.floats(-10, 300)),
)


@given(st.lists(st.tuples(st.sampled_from("abc"), EVENTS, st.floats(-1e6, 1e6)), max_size=20))
def test_rank_never_drops_or_invents_a_source(happenings):
    health = {}
    for name, event, offset in happenings:
        health[name] = observe(health.get(name, Health()), event, NOW + offset)
    assert sorted(order(health)) == ["a", "b", "c"]
