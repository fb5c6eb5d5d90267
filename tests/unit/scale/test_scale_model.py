"""The formulas for many machines: the published table, bounds, and what more of anything does."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale import table
from benchmarks.scale.model import (
    Lines,
    direct,
    gateway,
    gateways,
    gbit,
    multicast,
    peers,
    peers_in_waves,
    swarm,
    tiered,
)
from benchmarks.scale.table import CENTRE, OFFICE, SIZE, WARM

MIN, HOUR, DAY = 60, 3600, 86400
# N: direct 1G up; hub 10GbE; swarm 10GbE; warm hub, swarm; data centre: direct, hubs, swarm.
TABLE = {
    3: (8 * MIN, 160, 3 * MIN, 48, 29, 48, 16, 18),
    10: (27 * MIN, 160, 3 * MIN, 160, 29, 160, 16, 18),
    50: (2.2 * HOUR, 13 * MIN, 3 * MIN, 13 * MIN, 29, 13 * MIN, 80, 18),
    100: (4.4 * HOUR, 27 * MIN, 3 * MIN, 27 * MIN, 29, 27 * MIN, 160, 18),
    1000: (44 * HOUR, 4.4 * HOUR, 3 * MIN, 4.4 * HOUR, 29, 4.4 * HOUR, 13 * MIN, 18),
    10_000: (18 * DAY, 44 * HOUR, 3 * MIN, None, 29, 44 * HOUR, 13 * MIN, 18),
}
UPSTREAM_GB = {3: (60, 20), 10: (200, 20), 50: (1000, 20), 1000: (20_000, 40), 10_000: (2e5, 400)}

NODES = st.integers(2, 20_000)
RATES = st.floats(1e5, 1e11)
LINES = st.builds(Lines, uplink=RATES, link=RATES, hub_link=RATES)
SIZES = st.floats(1e6, 1e12)
WAYS = st.sampled_from([direct, gateway, gateways, tiered, peers, peers_in_waves, swarm, multicast])
ONCE = [gateway, tiered, peers, peers_in_waves, multicast]


@pytest.mark.parametrize("nodes", TABLE)
def test_times_are_those_of_the_published_table(nodes):
    columns = [(direct, OFFICE), (gateway, OFFICE), (swarm, OFFICE), (gateway, WARM), (swarm, WARM)]
    columns += [(direct, CENTRE), (gateways, CENTRE), (swarm, CENTRE)]
    for (way, lines), expected in zip(columns, TABLE[nodes], strict=True):
        if expected is not None:
            found = way(lines, nodes, SIZE).makespan_s
            assert found == pytest.approx(expected, rel=0.1), (way.__name__, lines)


@pytest.mark.parametrize("nodes", UPSTREAM_GB)
def test_bytes_upstream_are_those_of_the_published_table(nodes):
    alone, of_gateways = UPSTREAM_GB[nodes]
    assert direct(OFFICE, nodes, SIZE).upstream_bytes == alone * 1e9
    assert gateway(OFFICE, nodes, SIZE).upstream_bytes == 20e9
    assert swarm(OFFICE, nodes, SIZE).upstream_bytes == pytest.approx(23e9)
    assert gateways(CENTRE, nodes, SIZE).upstream_bytes == of_gateways * 1e9


def test_where_all_have_a_gigabit_a_swarm_overtakes_the_gateway_early():
    lines = Lines(gbit(1), gbit(1), gbit(1))
    shown = [(gateway, 3, 8 * MIN), (swarm, 3, 5 * MIN), (gateway, 50, 2.2 * HOUR)]
    for way, nodes, expected in [*shown, (swarm, 50, 5 * MIN)]:
        assert way(lines, nodes, SIZE).makespan_s == pytest.approx(expected, rel=0.1)


def test_gateway_ties_the_swarm_up_to_as_many_nodes_as_its_link_is_wider_than_the_uplink():
    at_most = 10
    assert gateway(OFFICE, at_most, SIZE).makespan_s <= swarm(OFFICE, at_most, SIZE).makespan_s
    beyond = gateway(OFFICE, 2 * at_most, SIZE).makespan_s
    assert beyond > swarm(OFFICE, 2 * at_most, SIZE).makespan_s


def test_measured_swarm_of_many_nodes_is_what_the_model_says():
    # One source on the site, 256 MiB, links of 50 Mbit/s, 24 nodes: 79.3 s.
    lines = Lines(math.inf, 50e6 / 8, 50e6 / 8)
    assert swarm(lines, 24, 256 * 2**20).makespan_s == pytest.approx(79.3, rel=0.1)
    # One HTTP source to six: 269.5 s.
    assert gateway(lines, 6, 256 * 2**20).makespan_s == pytest.approx(269.5, rel=0.1)


@given(WAYS, LINES, NODES, SIZES)
def test_nobody_is_sooner_than_the_lines_allow(way, lines, nodes, size):
    found = way(lines, nodes, size)
    assert found.makespan_s >= size / lines.link * 0.999
    assert found.makespan_s >= found.upstream_bytes / lines.uplink * 0.999
    assert size <= found.upstream_bytes <= nodes * size
    # Every copy but those from upstream was sent by somebody here.
    others = nodes * found.node_bytes + found.busiest_bytes * nodes
    assert others + found.upstream_bytes >= size


@given(st.sampled_from(ONCE), LINES, NODES, SIZES)
def test_what_the_site_shares_crosses_its_line_once(way, lines, nodes, size):
    assert way(lines, nodes, size).upstream_bytes == size


@given(WAYS, LINES, NODES, NODES, SIZES)
def test_more_nodes_take_no_less_time(way, lines, some, more, size):
    few, many = sorted((some, more))
    assert way(lines, few, size).makespan_s <= way(lines, many, size).makespan_s * 1.001


@given(WAYS, LINES, NODES, SIZES, st.floats(1, 100))
def test_larger_models_take_no_less_and_faster_lines_no_more(way, lines, nodes, size, factor):
    found = way(lines, nodes, size)
    assert way(lines, nodes, size * factor).makespan_s >= found.makespan_s * 0.999
    faster = Lines(lines.uplink * factor, lines.link * factor, lines.hub_link * factor)
    assert way(faster, nodes, size).makespan_s <= found.makespan_s * 1.001


@given(LINES, NODES, SIZES, st.integers(1, 64))
def test_tree_is_as_soon_as_one_of_its_nodes_can_feed_those_below(lines, nodes, size, below):
    few = tiered(lines, nodes, size, fan_out=below)
    assert few.makespan_s == tiered(
        lines, nodes + below * 1000, size, fan_out=below
    ).makespan_s or (nodes - 1 < below)
    assert few.busiest_bytes <= below * size


def test_times_and_sizes_are_shown_in_units_that_suit():
    shown = [table.shown_s(one) for one in (4.25, 160, 480, 8000, 16_000, 1.6e6)]
    assert shown == ["4.2 s", "160 s", "8.0 min", "2.2 h", "4.4 h", "19 d"]
    assert [table.shown_bytes(one) for one in (20e9, 1e12, 200e12)] == ["20 GB", "1 TB", "200 TB"]
