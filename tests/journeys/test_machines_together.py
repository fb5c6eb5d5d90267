"""Machines of a site that know one another begin with one model at the same moment."""

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.daemon import source, until
from zhcache.client import Client

REPO, COUNT, NODES = "org/model", 12, 3
MIB = 2**20
RATE = 6 * MIB
WHOLE = random.Random(13).randbytes(24 * MIB)


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def machines(hub, make_daemon):
    """Starts the machines, each of which has all others as peers and the hub."""
    ports = free_ports(NODES)
    nodes = []
    for own in range(NODES):
        config = f'[serve]\nlisten = "127.0.0.1:{ports[own]}"\n' + source(hub)
        for other in range(NODES):
            if other != own:
                url = f"http://127.0.0.1:{ports[other]}"
                config += f'[[source]]\nname = "peer-{other}"\nkind = "peer"\nendpoint = "{url}"\n'
        nodes.append(make_daemon(config, name=f"node-{own}").start())
    return nodes


def together(hub, make_daemon, files):
    """Has all fetch the files at once; returns how often the hub sent them."""
    hub.add(REPO, files)
    nodes = machines(hub, make_daemon)
    hub.fault("line", rate=RATE)
    with ThreadPoolExecutor(NODES) as asking:
        done = list(asking.map(lambda node: node.json("prefetch", REPO), nodes))
    for node in nodes:
        path = Path(node.json("path", REPO)["path"])
        assert {name: (path / name).read_bytes() for name in files} == files
    total = sum(map(len, files.values()))
    return sum(hub.sent(name) for name in files) / total, done


@pytest.mark.slow
def test_many_files_come_over_the_line_about_once(hub, make_daemon):
    draw = random.Random(12)
    files = {f"w{n:02}.safetensors": draw.randbytes(2 * MIB + n) for n in range(COUNT)}
    ratio, done = together(hub, make_daemon, files)
    assert ratio < 1.6
    # None of them brought all for the others.
    assert all(one["sources"]["hub"] > 0 for one in done)


@pytest.mark.slow
def test_one_file_comes_over_the_line_about_once(hub, make_daemon):
    ratio, _ = together(hub, make_daemon, {"w.safetensors": WHOLE})
    assert ratio < 1.2


@pytest.mark.slow
def test_machine_that_dies_while_others_read_from_it_is_stood_in_for(hub, make_daemon):
    hub.add(REPO, {"w.safetensors": WHOLE})
    first, second, _ = machines(hub, make_daemon)
    hub.fault("line", rate=RATE // 2)
    begun = first.popen("prefetch", REPO, "--json")
    assert hub.wait_for(lambda log: sum(r.sent for r in log if r.file) > MIB)
    following = second.popen("prefetch", REPO, "--json")
    with Client(second.socket) as client:
        until(lambda: any(j.bytes_done > 2 * MIB for j in client.jobs()), "it reads along")
    first.kill()
    hub.heal()
    begun.communicate(timeout=60)
    said, failed = following.communicate(timeout=60)
    assert following.returncode == 0, (said, failed, second.tail())
    sources = json.loads(said.splitlines()[-1])["sources"]
    assert min(sources["peer-0"], sources["hub"]) > MIB
    (held,) = Path(second.json("path", REPO)["path"]).iterdir()
    assert held.read_bytes() == WHOLE
