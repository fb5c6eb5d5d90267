"""Connections to the API, counted and accepted: by real sockets and a real event loop."""

import json
import socket
import subprocess
import sys
import time

import pytest

from harness.daemon import until
from zhcache.channel import Channel
from zhcache.errors import Busy, NotFound
from zhcache.protocol.messages import Version

SERVER = """
import asyncio, resource, sys
from pathlib import Path
from aiohttp import web
from zhcached.api import accept, listen, server
from zhcached.api.quota import Quota

async def main(path, places, descriptors):
    async def tell(request):
        return server.failure(server.NotFound("here is nothing"))
    app = web.Application()
    app.router.add_get("/v1/version", tell)
    runner = server.runner(app)
    await runner.setup()
    quota = Quota("connections", places)
    accept.Acceptor(listen.bind(path), runner.server, quota).start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(places, descriptors=256):
        path, log = tmp_path / "api.sock", tmp_path / "log"
        with log.open("wb") as words:
            command = [sys.executable, "-c", SERVER, str(path), str(places), str(descriptors)]
            started.append(subprocess.Popen(command, stdout=words, stderr=words))
        until(lambda: "ready" in log.read_text(), "the server is ready")
        return path, log

    yield start
    for process in started:
        process.kill()
        process.wait()


def connected(path):
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(30)
    line.connect(str(path))
    return line


def ask(path):
    """Returns what a client makes of the answer; served means that here is nothing."""
    channel = Channel(path)
    try:
        channel.call("GET", "/v1/version", Version)
    except (NotFound, Busy) as error:
        return error
    finally:
        channel.close()


def test_connection_over_the_quota_is_told_that_it_is_busy(serve):
    path, _ = serve(places=2)
    held = [connected(path), connected(path)]
    refused = ask(path)
    assert isinstance(refused, Busy)
    assert (refused.message, refused.exit_code) == ("too many connections at once", 75)
    with connected(path) as silent:
        head, _, body = silent.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 ") and json.loads(body)["error"]["code"] == "busy"
    held.pop().close()
    until(lambda: isinstance(ask(path), NotFound), "the place is free again")
    held.pop().close()


def test_lack_of_descriptors_is_one_line_a_second_and_passes(serve):
    path, log = serve(places=1000, descriptors=48)
    held = [connected(path) for _ in range(100)]
    begun = time.monotonic()

    def refusals():
        return log.read_text().count("api.not_accepted")

    until(lambda: refusals() >= 3, "the lack was told, and told again")
    assert refusals() <= 1 + time.monotonic() - begun + 1
    assert "Traceback" not in log.read_text()
    for line in held:
        line.close()
    until(lambda: isinstance(ask(path), NotFound), "it serves again")
