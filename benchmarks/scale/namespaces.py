"""Nodes in network namespaces bring one model in over one slow line: what it costs, way by way.

Every node runs a zhcached with a store of its own; all are asked for the model at the same moment,
but where a way says otherwise. What left the origin is read off its interface, and told by the hub.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.scale.network import ORIGIN, Network
from harness.daemon import Daemon, until

REPO = "bench/large"
PORT = 8590
MIB = 2**20
LARGE = 2
"""Files of the model that have a torrent."""
SERVE = '[serve]\nlisten = "{address}:8590"\n'


@dataclass(frozen=True, slots=True)
class Run:
    """One cold start.

    Attributes:
        makespan_s: From the first node's question until the last node has all, verified.
        nodes_s: The same for each node by itself.
        model_bytes: Of the model.
        upstream_bytes: That left the origin at its interface.
        hub_bytes: That the hub counts as sent of files.
        listings: How often the hub was asked for the list of files.
        sent: Bytes that left each node.
        received: Bytes that came to each node.
    """

    makespan_s: float
    nodes_s: list[float]
    model_bytes: int
    upstream_bytes: int
    hub_bytes: int
    listings: int
    sent: list[int]
    received: list[int]

    @property
    def upstream_ratio(self) -> float:
        """Bytes upstream for each byte of the model."""
        return self.upstream_bytes / self.model_bytes


Sources = Callable[[int, Network, str], str]
"""Returns the sources of a node by its number, from 0, the network and the hub's address."""


@dataclass(frozen=True, slots=True)
class Way:
    """How nodes are configured, and in which groups they are asked one after the other.

    Attributes:
        swarm: What ``[swarm]`` of a node says.
        is_far: A gateway stands beside the hub, at the far end of the line, and has the model.
    """

    name: str
    sources: Sources
    groups: Callable[[int], list[list[int]]] = lambda count: [list(range(count))]
    swarm: Callable[[int, Network], str] = lambda _number, _network: ""
    is_far: bool = False


def _table(name: str, kind: str, url: str) -> str:
    return f'[[source]]\nname = "{name}"\nkind = "{kind}"\nendpoint = "{url}"\n'


def _gateway_url(network: Network, number: int) -> str:
    return f"http://{network.address(network.nodes[number])}:{PORT}"


def _hub(_number: int, _network: Network, hub: str) -> str:
    return _table("hub", "huggingface", hub)


def _peers(number: int, network: Network, hub: str) -> str:
    others = [other for other in range(len(network.nodes)) if other != number]
    peers = [_table(f"peer-{n + 1}", "peer", _gateway_url(network, n)) for n in others]
    return "".join(peers) + _hub(number, network, hub)


def _gateway(number: int, network: Network, hub: str) -> str:
    if number == 0:
        return _hub(number, network, hub)
    return _table("gateway", "huggingface", _gateway_url(network, 0))


def _tree(number: int, network: Network, hub: str) -> str:
    if number == 0:
        return _hub(number, network, hub)
    above = (number - 1) // fan_out(len(network.nodes))
    return _table("gateway", "huggingface", _gateway_url(network, above))


def _peers_and_gateway(number: int, network: Network, hub: str) -> str:
    if number == 0:
        return _hub(number, network, hub)
    peers = [n for n in range(len(network.nodes)) if n != number]
    tables = [_table(f"peer-{n + 1}", "peer", _gateway_url(network, n)) for n in peers]
    near = _gateway(number, network, hub) + "near = true\n"
    return "".join(tables) + near + _hub(number, network, hub)


def _in_swarm(number: int, network: Network) -> str:
    listen = f"{network.address(network.nodes[number])}:6881"
    return f'[swarm]\nenabled = true\nlisten = "{listen}"\nnetworks = ["{network.subnet}"]\n'


def _drawing(number: int, network: Network) -> str:
    return _in_swarm(number, network) + ("web_seed = true\n" if number < 2 else "")


def _far(number: int, network: Network, _hub: str) -> str:
    gateway = f"http://{network.address(ORIGIN)}:{PORT}"
    others = [other for other in range(len(network.nodes)) if other != number]
    peers = [_table(f"peer-{n + 1}", "peer", _gateway_url(network, n)) for n in others]
    return _table("gateway", "peer", gateway) + "".join(peers)


def _first_alone(count: int) -> list[list[int]]:
    return [[0], list(range(1, count))]


DIRECT = Way("direct", _hub)
GATEWAY = Way("gateway", _gateway)
TIERED = Way("tiered", _tree)
BOTH = Way("peers, gateway, hub", _peers_and_gateway)
PEERS = Way("peers, the first alone", _peers, _first_alone)
RUSH = Way("peers, all at once", _peers)
SWARM = Way("swarm, the first alone", _peers, _first_alone, _in_swarm)
WEB = Way("swarm, two web seeds", _far, swarm=_drawing, is_far=True)
WAYS = (DIRECT, GATEWAY, TIERED, BOTH, PEERS, RUSH, SWARM, WEB)


def fan_out(nodes: int) -> int:
    """Returns how many stand below each node of a tree: with three it is a chain."""
    return 1 if nodes <= 3 else 2


def random_model(folder: Path, size: int) -> Path:
    """Makes a model of two large files and some small ones, ``size`` bytes in all."""
    small = {"model_index.json": b"{}", "vae/config.json": b"{}", "unet/config.json": b"{}"}
    left = size - sum(map(len, small.values()))
    bytes_of = random.Random(size).randbytes
    large = {"unet/model.safetensors": left * 2 // 3, "vae/model.safetensors": left - left * 2 // 3}
    for path, content in (small | {path: bytes_of(n) for path, n in large.items()}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def once(way: Way, network: Network, model: Path) -> Run:
    """Has every node bring the model in, from empty stores.

    Raises:
        RuntimeError: A node could not.
    """
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    with ExitStack() as running:
        count, hub = running.enter_context(_origin(network, model))
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="zhcache-scale-")))
        if way.is_far:
            running.enter_context(_teller(network, hub, folder / "teller"))
        daemons: list[Daemon] = []
        for number, name in enumerate(network.nodes):
            serve = SERVE.format(address=network.address(name))
            swarm = way.swarm(number, network)
            daemon = Daemon(folder / name, way.sources(number, network, hub) + serve + swarm)
            daemon.before = network.before(name)
            daemons.append(daemon)
            running.callback(daemon.stop)
            daemon.start()
        before = {name: network.traffic(name) for name in (ORIGIN, *network.nodes)}
        began = time.monotonic()
        took = [0.0] * len(daemons)
        for group in way.groups(len(daemons)):
            for number, seconds in _prefetch_all(daemons, group).items():
                took[number] = seconds
            if group == [0] and way is SWARM:
                _until_hashed(daemons[0])
        makespan_s = time.monotonic() - began
        after = {name: network.traffic(name) for name in before}
        told = count()
    brought = told["bytes"] - (size if way.is_far else 0)
    nodes = [(after[name], before[name]) for name in network.nodes]
    return Run(
        makespan_s,
        took,
        size,
        after[ORIGIN].sent - before[ORIGIN].sent,
        brought,
        told["listings"],
        [b.sent - a.sent for b, a in nodes],
        [b.received - a.received for b, a in nodes],
    )


def _prefetch_all(daemons: Sequence[Daemon], group: Sequence[int]) -> dict[int, float]:
    began = time.monotonic()
    asked = {number: daemons[number].popen("prefetch", REPO, "--json") for number in group}
    took: dict[int, float] = {}
    while len(took) < len(asked):
        for number, client in asked.items():
            if number not in took and client.poll() is not None:
                took[number] = time.monotonic() - began
        time.sleep(0.01)
    for number, client in asked.items():
        said, failed = client.communicate()
        if client.returncode:
            raise RuntimeError(f"node {number + 1}: {said}{failed}{daemons[number].tail()}")
    return took


@contextmanager
def _teller(network: Network, hub: str, folder: Path) -> Iterator[None]:
    """A gateway beside the hub that has the model and is in no torrent, but tells of them."""
    serve = SERVE.format(address=network.address(ORIGIN))
    daemon = Daemon(folder, _hub(0, network, hub) + serve + "[swarm]\nenabled = true\n")
    daemon.before = network.before(ORIGIN)
    try:
        daemon.start().cli("prefetch", REPO)
        _until_hashed(daemon)
        yield
    finally:
        daemon.stop()


def _until_hashed(daemon: Daemon) -> None:
    """Waits until the torrents of both large files may be told of."""
    log = daemon.home / "logs" / "zhcached.jsonl"
    until(lambda: log.read_text().count('"seeding.hashed"') == LARGE, "torrents are told of")


@contextmanager
def _origin(network: Network, model: Path) -> Iterator[tuple[Callable[[], dict[str, int]], str]]:
    command = [sys.executable, "-m", "benchmarks.scale.origin", network.address(ORIGIN), REPO]
    process = subprocess.Popen(
        [*network.before(ORIGIN), *command, str(model)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answers = process.stdin, process.stdout

    def count() -> dict[str, int]:
        ask.write("\n")
        ask.flush()
        return json.loads(answers.readline())

    try:
        url = answers.readline().strip()
        if not url:
            raise RuntimeError("the demo hub did not start")
        yield count, url
    finally:
        ask.close()
        process.wait(30)
        answers.close()
