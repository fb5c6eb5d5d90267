"""Machines on loopback that are in a swarm, each at an address of its own."""

from __future__ import annotations

import json
import urllib.request

import psutil

from harness.daemon import Daemon, until
from zhcache.client import Client

EVERYBODY = "127.0.0.0/8"


class Machine(Daemon):
    """A daemon at 127.0.0.N, with a gateway and in the swarm.

    ``swarm`` replaces what its ``[swarm]`` says beside who may take part, ``networks``; ``more`` is
    the rest.
    """

    def __init__(
        self, folder, number, sources, swarm="", more="", environ=None, networks=EVERYBODY
    ):
        self.place = f"127.0.0.{number}"
        swarm = swarm or f'enabled = true\nlisten = "{self.place}:0"\n'
        served = f'[serve]\nlisten = "{self.place}:0"\n'
        text = f'{served}[swarm]\n{swarm}networks = ["{networks}"]\n{more}{sources}'
        super().__init__(folder, text, environ)

    @property
    def url(self):
        with Client(self.socket) as client:
            return client.gateway().url

    def told(self, digest):
        """What it tells of the torrent of a blob."""
        with urllib.request.urlopen(f"{self.url}/zhcache/v1/torrents?sha256={digest}") as answer:
            return json.load(answer)

    def gives(self, digest):
        """Waits until it has the torrent whole, and tells of it."""

        def whole():
            found = self.told(digest)["torrents"].get(digest)
            return found if found and found["whole"] else None

        return until(whole, "it tells of the torrent", 60)

    def engine(self):
        """Waits for the process that is in torrents."""

        def found():
            children = psutil.Process(self.process.pid).children(recursive=True)
            return next((c for c in children if "zhcached.swarm.engine" in c.cmdline()), None)

        return until(found, "the swarm's process runs")

    def swarms(self):
        """Waits until it is in the swarm."""
        listening = '"swarm.listens"'
        return until(lambda: listening in self.tail(), "the swarm listens") and self

    def brought(self):
        """Bytes that the running job has so far."""
        jobs = self.json("jobs")["jobs"]
        return sum(one["bytes_done"] for one in jobs if one["state"] == "fetching")


def peer(machine, name="peer"):
    """The ``[[source]]`` of a machine, or of anything with a ``url``."""
    return f'[[source]]\nname = "{name}"\nkind = "peer"\nendpoint = "{machine.url}"\n'
