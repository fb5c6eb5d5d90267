"""A gateway over a store of its own and demo hubs, in this process, and plain clients of it."""

from __future__ import annotations

import http.client
import random
from dataclasses import dataclass

import msgspec
from aiohttp import web

from harness.storekit import open_store
from zhcache.errors import NotFound, ZhcacheError
from zhcache.protocol.names import parse_path, parse_repo
from zhcached.clock import SystemClock
from zhcached.config import DownloadConfig, ServeConfig, SourceConfig
from zhcached.gateway.connections import bind
from zhcached.gateway.context import Context
from zhcached.gateway.door import Door, digest_of, own_names
from zhcached.gateway.pace import Pace
from zhcached.gateway.sending import send
from zhcached.gateway.server import Server
from zhcached.gateway.share import Share
from zhcached.jobs.asking.health import Health
from zhcached.jobs.fetching.gather import Fetcher
from zhcached.jobs.pulling.pull import Pulls
from zhcached.sources.registry import build, configured_origins
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport

REPO = "lab/tiny"
CONFIG = b'{"_class_name": "Tiny"}'
WEIGHTS = random.Random(7).randbytes(3 * 2**20 + 11)
FILES = {"model_index.json": CONFIG, "unet/model.safetensors": WEIGHTS}


def sources_of(hubs, **options):
    return [SourceConfig(hub.name, "huggingface", hub.url, **options) for hub in hubs]


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes
    cut: bool = False


class Front:
    """One serving: a store, its pulls and a server with one route for all files."""

    def __init__(
        self,
        root,
        hubs,
        *,
        download=None,
        clock=None,
        token=None,
        tls=None,
        stall_s=60,
        header_s=10,
        store=None,
        source=None,
        also=(),
        **serve,
    ):
        self.clock = clock or SystemClock()
        self.store = open_store(root, self.clock, **(store or {}))
        self.config = ServeConfig(**serve)
        configs = [*sources_of(hubs, **(source or {})), *also]
        limits = {
            "stall": 0.3,
            "min_rate": 1024,
            "retries": 1,
            "connections": 2,
            **(download or {}),
        }
        self.download = DownloadConfig(**limits)
        self.transport = Transport(AddressPolicy(configured_origins(configs)), connect_timeout_s=2)
        self.health = Health(self.store.catalog, configs, self.clock)
        self.fetcher = Fetcher(self.store, self.transport, self.download, self.health)
        self.sources = build(configs, self.transport)
        self.pulls = Pulls(self.fetcher, self.sources, {}, self.clock, self.config)
        self.context = Context(
            self.pulls, self.store, self.config, self.clock, Pace(self.config.rate, self.clock)
        )
        listener = bind("127.0.0.1", 0, stall_s)
        self.port = listener.getsockname()[1]
        share = Share(self.config.requests, self.clock)
        door = Door(digest_of(token) if token else None, share, own_names())
        self.server = Server(self.context, listener, routes, door, header_s=header_s, tls=tls)
        self.server.start()

    def close(self):
        self.server.stop()
        assert self.pulls.stop()
        self.store.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def repo(self):
        return parse_repo(REPO)

    def snapshot(self, revision="main"):
        """Returns the manifest that is published of the repository, if any."""
        try:
            return self.store.resolve(self.repo, revision)
        except NotFound:
            return None

    def published(self, repo):
        """Returns the newest manifest of a repository, whole or not."""
        try:
            return self.store.resolve(repo, None)
        except NotFound:
            return None

    def named(self, path):
        """Returns what the newest manifest says of a file, if it has it."""
        manifest = self.published(self.repo)
        found = [file for file in manifest.files if file.path == path] if manifest else []
        return found[0] if found else None

    def download_with(self, **changes):
        return msgspec.structs.replace(self.download, **changes)

    def forgive(self):
        """Forgets what is held against the sources."""
        self.health._records.clear()

    def connect(self, timeout=20):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path, *, repo=REPO, revision="main", method="GET", **headers) -> Answer:
        """One request; a body that ends early is told by ``cut``."""
        line = self.connect()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            line.request(method, f"/{repo}/{revision}/{path}", headers=named)
            answer = line.getresponse()
            told = {k.lower(): v for k, v in answer.getheaders()}
            try:
                return Answer(answer.status, told, answer.read())
            except http.client.IncompleteRead as error:
                return Answer(answer.status, told, error.partial, cut=True)
            except ConnectionError:
                return Answer(answer.status, told, b"", cut=True)
        finally:
            line.close()


def routes(context):
    async def file(request: web.Request) -> web.StreamResponse:
        where = request.match_info
        try:
            repo = parse_repo(f"{where['owner']}/{where['name']}")
            listed = await context.listed(repo, where["revision"])
            path = parse_path(where["path"])
            found = await context.call(context.pulls.find, listed, path)
            tag = found.sha256 or found.promise.git_sha1
            return await send(request, found, {"ETag": f'"{tag}"', "X-Commit": listed.commit})
        except ZhcacheError as error:
            status = {4: 404, 6: 507, 8: 403, 75: 503}.get(error.exit_code, 502)
            return web.json_response({"error": str(error), "code": error.code}, status=status)

    return [web.get("/{owner}/{name}/{revision}/{path:.+}", file)]
