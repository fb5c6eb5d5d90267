import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcached.sources.health import (
    MAX_PLANES,
    METADATA,
    Answered,
    Delivered,
    Failed,
    Health,
    Lied,
    Limited,
    aged,
    observe,
)
from zhcached.sources.ranking import is_doubtful, is_silent, rank, rank_metadata, rate_of

NOW = 1_800_000_000.0
MIB = 2**20
HUB = "https://hub.example"
CDN = "https://cdn-x.example:8443"


def after(*events, plane=CDN, now=NOW, before=None):
    health = before or Health()
    for event in events:
        health = observe(health, event, now, plane)
    return health


def order(health, now=NOW, names=("a", "b", "c")):
    return [entry.name for entry in rank(names, health, now)]


def states(health, now=NOW, names=("a", "b", "c")):
    return {entry.name: entry.state for entry in rank(names, health, now)}


def reason(health, now=NOW):
    (entry,) = rank(("a",), {"a": health}, now)
    return entry.reason


def test_rank_keeps_configured_order_when_nothing_is_known():
    assert order({}) == ["a", "b", "c"]
    assert set(states({}).values()) == {"unknown"}


def test_rank_puts_the_clearly_faster_source_first():
    health = {"a": after(Delivered(10 * MIB, 10)), "b": after(Delivered(100 * MIB, 10))}
    assert order(health) == ["b", "a", "c"]


def test_rank_puts_what_is_near_first_while_nothing_speaks_against_it():
    fast = {"a": after(Delivered(1000 * MIB, 1))}
    near = [entry.name for entry in rank(("a", "b", "c"), fast, NOW, near={"c"})]
    assert near == ["c", "a", "b"]
    lying = fast | {"c": after(Lied("x"))}
    assert [entry.name for entry in rank(("a", "b", "c"), lying, NOW, near={"c"})][-1] == "c"
    (last,) = (e for e in rank(("c",), {}, NOW, near={"c"}))
    assert last.state == "unknown"


def test_rank_keeps_configured_order_between_nearly_equal_rates():
    health = {"a": after(Delivered(10 * MIB, 10)), "b": after(Delivered(11 * MIB, 10))}
    assert order(health) == ["a", "b", "c"]


def test_rank_orders_the_states_and_names_reasons():
    health = {
        "ok": after(Delivered(10 * MIB, 1)),
        "slow": after(Delivered(MIB, 100)),
        "limited": after(Limited(30)),
        "down": after(*[Failed("connection refused", "refused")] * 3),
        "lying": after(Lied("unet/x did not hash to its promise")),
    }
    names = ("lying", "down", "limited", "slow", "new", "ok")
    ranked = rank(names, health, NOW)
    assert [entry.name for entry in ranked] == ["ok", "new", "slow", "limited", "down", "lying"]
    reasons = {entry.name: entry.reason for entry in ranked}
    assert "connection refused" in reasons["down"]
    assert "unet/x" in reasons["lying"]
    assert "30 s" in reasons["limited"]


def dead_cdn():
    asked = after(Answered(0.2), Answered(0.2), plane=METADATA)
    return after(*[Failed("connecting: refused", "refused")] * 3, before=asked)


def test_mirror_that_lists_while_its_data_plane_is_dead_says_exactly_that():
    health = {"a": dead_cdn()}
    assert states(health)["a"] == "down"
    said = "lists models, but cdn-x.example:8443 sends nothing: connecting: refused"
    assert reason(health["a"]) == said
    assert order(health) == ["b", "c", "a"]


def test_mirror_with_a_dead_data_plane_still_answers_questions():
    health = {"a": dead_cdn(), "b": after(*[Failed("silent")] * 3, plane=METADATA)}
    ranked = rank(("a", "b", "c"), health, NOW)
    assert rank_metadata(ranked, health, NOW) == ["c", "a", "b"]
    assert not is_doubtful(health["a"], NOW)
    assert is_doubtful(health["b"], NOW)
    assert is_silent(health["b"], NOW)
    assert not is_silent(health["a"], NOW)


def test_small_files_from_the_hub_itself_do_not_hide_a_dead_data_plane():
    health = after(Delivered(5000, 0.0), plane=HUB, before=dead_cdn(), now=NOW + 1)
    assert states({"a": health})["a"] == "down"


def test_another_data_plane_that_sends_outweighs_a_dead_one():
    health = after(Delivered(10 * MIB, 1), plane=HUB, before=dead_cdn(), now=NOW + 1)
    assert states({"a": health})["a"] == "ok"
    assert reason(health).startswith("10.0 MiB/s; nothing comes from cdn-x.example:8443: ")


def test_what_else_counts_is_told_too():
    health = after(Answered(4.0), plane=METADATA)
    health = after(Delivered(MIB, 1), before=health)
    health = after(
        Failed("x", "stall"), Failed("y", "timeout"), Failed("z", "stall"), before=health
    )
    health = after(Delivered(MIB, 1), Failed("late", "timeout"), before=health)
    said = reason(health)
    assert said.startswith("1.0 MiB/s; ")
    assert "cdn-x.example:8443 failed lately: stall x2, timeout x2" in said
    assert "takes 4.0 s to answer" in said


def test_silent_hub_is_down_whatever_its_data_plane_did():
    health = after(*[Failed("no answer", "timeout")] * 3, plane=METADATA)
    health = after(Delivered(10 * MIB, 1), before=health)
    assert states({"a": health})["a"] == "down"
    assert "does not answer: no answer" in reason(health)


def test_faults_are_counted_by_kind_and_fade():
    health = after(Failed("x", "dns"), Failed("y", "5xx"), Failed("z", "5xx"))
    assert health.data[CDN].faults == {"dns": 1, "5xx": 2}
    later = aged(health, NOW + 600)
    assert later.data[CDN].faults == pytest.approx({"dns": 0.5, "5xx": 1})
    assert aged(health, NOW + 86400).data[CDN].faults == {}
    assert later.data[CDN].last_error == "z"


def test_source_is_down_after_repeated_failures_and_comes_back_with_time():
    health = {"a": after(*[Failed("reset")] * 4)}
    assert states(health)["a"] == "down"
    assert states(health, NOW + 1200)["a"] == "unknown"


def test_one_failure_does_not_take_a_source_down():
    assert states({"a": after(Delivered(MIB, 0.1), Failed("reset"))})["a"] == "ok"


@pytest.mark.parametrize(("plane", "good"), [(METADATA, Answered(0.1)), (CDN, Delivered(9, 0.0))])
def test_success_ends_being_down(plane, good):
    failed = after(*[Failed("reset")] * 9, plane=plane)
    assert states({"a": failed})["a"] == "down"
    assert states({"a": after(good, plane=plane, before=failed)})["a"] == "unknown"


def test_answer_without_bytes_does_not_make_a_data_plane_well():
    assert states({"a": after(*[Failed("stall")] * 3, Answered(0.1))})["a"] == "down"


def test_lie_is_remembered_for_days_and_through_successes():
    health = {"a": after(Lied("wrong bytes"), Delivered(100 * MIB, 1))}
    assert states(health, NOW + 86400)["a"] == "lying"
    assert states(health, NOW + 15 * 86400)["a"] == "unknown"


@pytest.mark.parametrize("plane", [METADATA, HUB])
def test_limit_ends_at_its_time(plane):
    health = {"a": after(Limited(60), Limited(10), plane=plane)}
    assert states(health, NOW + 59)["a"] == "limited"
    assert states(health, NOW + 61)["a"] == "unknown"


def test_limit_for_questions_alone_does_not_put_off_bytes():
    fast = after(Delivered(100 * MIB, 1))
    health = {"b": after(Limited(60), plane=METADATA, before=fast), "a": after(Delivered(MIB, 1))}
    assert states(health)["b"] == "limited"
    assert order(health) == ["b", "a", "c"]
    assert rank_metadata(rank(("a", "b"), health, NOW), health, NOW) == ["a", "b"]
    health["b"] = after(Limited(60), plane=HUB, before=health["b"])
    assert order(health) == ["a", "c", "b"]


def test_rate_follows_a_change_and_expires():
    health = after(Delivered(100 * MIB, 1))
    for _ in range(10):
        health = after(Delivered(10 * MIB, 10), before=health)
    assert rate_of(health) == pytest.approx(MIB, rel=1)
    assert states({"a": health}, NOW + 90_000)["a"] == "unknown"


def test_rate_is_that_of_the_plane_measured_last():
    health = after(Delivered(MIB, 1), plane=HUB)
    health = after(Delivered(50 * MIB, 1), before=health, now=NOW + 5)
    assert rate_of(health) == 50 * MIB


def test_small_answers_do_not_measure_the_line():
    assert rate_of(after(Delivered(1000, 1.0))) is None


def test_clock_that_jumps_back_ages_nothing():
    health = after(*[Failed("reset")] * 4)
    assert states({"a": health}, NOW - 3 * 86400)["a"] == "down"


def test_rate_is_finite_however_short_the_transfer():
    health = {"a": after(Delivered(MIB, 5e-324), Delivered(MIB, 5e-324))}
    assert states(health)["a"] == "ok"
    assert rate_of(health["a"]) == pytest.approx(1000 * MIB)


def test_redirects_without_end_are_forgotten_oldest_first():
    health = Health()
    for number in range(3 * MAX_PLANES):
        health = after(
            Delivered(1, 0.0), plane=f"https://h{number}", now=NOW + number, before=health
        )
    assert set(health.data) == {f"https://h{n}" for n in range(2 * MAX_PLANES, 3 * MAX_PLANES)}
    assert health.bytes == 3 * MAX_PLANES


def test_health_survives_json():
    health = after(Delivered(MIB, 1), Failed("x"), Lied("y"), Limited(5))
    health = after(Answered(0.3), plane=METADATA, before=health)
    assert msgspec.json.decode(msgspec.json.encode(health), type=Health) == health


def test_record_of_an_earlier_release_is_read():
    old = (
        b'{"rate":1.5e6,"rate_at":1.8e9,"bytes":7,"failures":0.5,"lies":1.0,"limited_until":0,'
        b'"last_error":"wrong","error_at":1.8e9,"seen":1.8e9}'
    )
    health = msgspec.json.decode(old, type=Health)
    assert health.bytes == 7
    assert states({"a": health})["a"] == "lying"


EVENTS = st.one_of(
    st.builds(Answered, st.none() | st.floats(0, 100)),
    st.builds(Delivered, st.integers(0, 10**12), st.floats(0, 1e6)),
    st.builds(Failed, st.text(max_size=5), st.sampled_from(["dns", "tls"])),
    st.builds(Lied, st.text(max_size=5)),
    st.builds(Limited, st.floats(-10, 300)),
)
HAPPENINGS = st.tuples(
    st.sampled_from("abc"), EVENTS, st.floats(-1e6, 1e6), st.sampled_from([METADATA, HUB, CDN])
)


@given(st.lists(HAPPENINGS, max_size=20))
def test_rank_never_drops_or_invents_a_source(happenings):
    health = {}
    for name, event, offset, plane in happenings:
        health[name] = observe(health.get(name, Health()), event, NOW + offset, plane)
    ranked = rank(("a", "b", "c"), health, NOW)
    assert sorted(entry.name for entry in ranked) == ["a", "b", "c"]
    assert sorted(rank_metadata(ranked, health, NOW)) == ["a", "b", "c"]
    assert all(entry.reason for entry in ranked)
