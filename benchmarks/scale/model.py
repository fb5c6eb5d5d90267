"""What it costs to bring one model to many machines, way by way. Pure; lower bounds but for swarms.

Every formula is a bound by the narrowest line: latency, packets' headers, hashing, disks, retries
and a switch that is oversubscribed are left out. What is marked [M] was measured: a swarm's
efficiency and its duplicates, with libtorrent 2.1.1 at up to 24 nodes of 50 Mbit/s. Beyond that
they are derived, [D]: they lean on what Kraken's authors publish (more than half of the link's
speed, 8,000 hosts) and on Mundinger, Weber and Weiss, "Optimal scheduling of peer-to-peer file
dissemination", 2008: with M equal parts about M + log2 N rounds, so nearly flat in N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SWARM_EFFICIENCY = 0.55
"""Share of a node's link that a swarm fills; 0.56 [M]."""
SWARM_DUPLICATES = 0.15
"""Bytes upstream beyond one copy [D]; 0.20 where two nodes ask the hub, 0.49 where all do [M]."""
PIECE_BYTES = 4 * 2**20
"""What a node of a swarm has whole before it hands it on."""
SITE_NODES = 500
"""Behind each gateway of several."""
FAN_OUT = 10
"""Below each node of a tree: as many as the uplink is slower than a node's link."""


def gbit(rate: float) -> float:
    """Returns bytes per second of a rate in Gbit/s."""
    return rate * 1e9 / 8


@dataclass(frozen=True, slots=True)
class Lines:
    """What carries the bytes, in bytes per second.

    Attributes:
        uplink: The site's line to the hubs; infinite where the model is here already.
        link: Of each node.
        hub_link: Of the machine that serves the others.
    """

    uplink: float
    link: float
    hub_link: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected.

    Attributes:
        makespan_s: Until the last node has all.
        upstream_bytes: Over the line to the hubs.
        busiest_bytes: Sent by the machine of the site that sends most.
        node_bytes: Sent by each of the others, on average.
    """

    makespan_s: float
    upstream_bytes: float
    busiest_bytes: float
    node_bytes: float


def direct(lines: Lines, nodes: int, size: float) -> Forecast:
    """Each node fetches for itself."""
    makespan_s = max(nodes * size / lines.uplink, size / lines.link)
    return Forecast(makespan_s, nodes * size, 0, 0)


def gateway(lines: Lines, nodes: int, size: float) -> Forecast:
    """One machine fetches and sends to all ``nodes`` as it comes; it is none of them."""
    makespan_s = max(size / lines.uplink, nodes * size / lines.hub_link, size / lines.link)
    return Forecast(makespan_s, size, nodes * size, 0)


def gateways(lines: Lines, nodes: int, size: float, *, site_nodes: int = SITE_NODES) -> Forecast:
    """Several gateways, each for ``site_nodes`` nodes, none of which knows of the others."""
    count = math.ceil(nodes / site_nodes)
    widest = min(nodes, site_nodes)
    widest_s = widest * size / lines.hub_link
    makespan_s = max(count * size / lines.uplink, widest_s, size / lines.link)
    return Forecast(makespan_s, count * size, widest * size, 0)


def tiered(lines: Lines, nodes: int, size: float, *, fan_out: int = FAN_OUT) -> Forecast:
    """A tree of gateways: each node has one above it and at most ``fan_out`` below.

    Every one sends on what is still coming, so that no level adds time but for the end of a file.
    """
    below = min(fan_out, nodes - 1)
    makespan_s = max(size / lines.uplink, below * size / lines.link, size / lines.link)
    return Forecast(makespan_s, size, below * size, (nodes - 1) * size / nodes)


def peers(lines: Lines, nodes: int, size: float) -> Forecast:
    """One node fetches; when it has all, the others ask it, all at the same moment.

    A peer sends what it has whole, and a job asks once who has it: nobody hands on what is coming.
    """
    first_s = max(size / lines.uplink, size / lines.link)
    return Forecast(first_s + (nodes - 1) * size / lines.link, size, (nodes - 1) * size, 0)


def peers_in_waves(lines: Lines, nodes: int, size: float) -> Forecast:
    """As ``peers``, but as many nodes ask as have it, one from each, until all have it."""
    waves = math.ceil(math.log2(nodes))
    first_s = max(size / lines.uplink, size / lines.link)
    makespan_s = first_s + waves * size / lines.link
    return Forecast(makespan_s, size, waves * size, (nodes - 1) * size / nodes)


def swarm(
    lines: Lines, nodes: int, size: float, *, duplicates: float = SWARM_DUPLICATES
) -> Forecast:
    """Nodes hand on pieces as they come; two of them fetch from the hub."""
    is_here = math.isinf(lines.uplink)
    upstream = 0 if is_here else (1 + duplicates) * size
    narrowest_s = max(upstream / lines.uplink, size / (SWARM_EFFICIENCY * lines.link))
    makespan_s = narrowest_s + math.log2(nodes) * PIECE_BYTES / lines.link
    # The first copy left its source 1.8 times [M]; all else is spread over the nodes.
    busiest = min(1.8, nodes - 1) * size
    return Forecast(makespan_s, upstream, busiest, (nodes - 1) * size / nodes)


def multicast(lines: Lines, nodes: int, size: float) -> Forecast:
    """One machine fetches and sends once, for all; needs switches that do it."""
    del nodes
    return Forecast(max(size / lines.uplink, size / lines.link), size, size, 0)
