"""A hub, a daemon whose source it is, and the daemon's gateway: what a client meets."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from demohub import Hub
from harness.daemon import DEADLINE_S, Daemon, source


class Answer(NamedTuple):
    """An answer as it came; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Makes one request over a connection of its own; ``_`` in a header's name means ``-``."""
    split = urlsplit(url)
    assert split.hostname is not None
    connection = http.client.HTTPConnection(split.hostname, split.port, timeout=DEADLINE_S)
    try:
        target = split.path + (f"?{split.query}" if split.query else "")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body=body, headers=named)
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, told, answer.read())
    finally:
        connection.close()


@contextmanager
def serving(daemon: Daemon, *options: str) -> Iterator[str]:
    """Runs ``zhcache serve`` on any free port of loopback until the block ends; gives its URL."""
    process = daemon.popen("serve", "--listen", "127.0.0.1:0", "--json", *options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            assert process.stderr is not None
            raise AssertionError(f"serve ended: {process.stderr.read()} {daemon.tail()}")
        yield json.loads(line)["url"]
    finally:
        _interrupt(process)


def _interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


class Site(NamedTuple):
    """What runs, and the gateway's URL."""

    hub: Hub
    daemon: Daemon
    url: str

    def file_url(self, repo: str, path: str, revision: str = "main") -> str:
        """Where a file is in the Hugging Face protocol."""
        return f"{self.url}/{repo}/resolve/{revision}/{path}"


@contextmanager
def site(folder: Path, config: str = "", *options: str) -> Iterator[Site]:
    """Runs all three until the block ends; ``options`` are those of ``zhcache serve``."""
    with Hub() as hub:
        daemon = Daemon(folder, source(hub) + config).start()
        try:
            with serving(daemon, *options) as url:
                yield Site(hub, daemon, url)
        finally:
            daemon.stop()


def contents(folder: str | Path) -> dict[str, bytes]:
    """Returns what lies in a folder by relative path, hidden files left out."""
    found = {path.relative_to(folder): path for path in Path(folder).rglob("*") if path.is_file()}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in found.items()
        if not any(part.startswith(".") for part in name.parts)
    }
