"""The peer protocol: what other daemons ask of this one, by name and by digest.

Nothing is fetched for a peer: it asks the hubs itself, and each machine would else make every other
download. What this machine fetches for itself is shown as it comes. A digest is no permission: a
blob is sent if a snapshot has it that may be served.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from zhcache.errors import NotFound, UsageError, ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol.messages import LockedFile
from zhcache.protocol.names import RepoId, is_sha256, parse_repo
from zhcache.protocol.peers import (
    MAX_DIGESTS,
    PREFIX,
    PeerBlobs,
    PeerModel,
    PeerTorrent,
    PeerTorrents,
)
from zhcached.gateway import failures, files
from zhcached.gateway.answers import Handler, telling
from zhcached.gateway.sending import send
from zhcached.jobs.pulling.pull import Here
from zhcached.store import listing
from zhcached.store.snapshots import Manifest

if TYPE_CHECKING:
    from zhcached.gateway.context import Context
    from zhcached.swarm.own import OwnTorrents


def routes(context: Context) -> list[web.RouteDef]:
    """Returns the routes of this protocol."""
    desk = _Desk(context)

    def told(handler: Handler) -> Handler:
        return telling(handler, _refusal)

    return [
        web.get(f"{PREFIX}/models/{{name:[^/]+}}", told(desk.model)),
        web.get(f"{PREFIX}/models/{{owner:[^/]+}}/{{name:[^/]+}}", told(desk.model)),
        web.get(f"{PREFIX}/blobs", told(desk.holding)),
        web.get(f"{PREFIX}/torrents", told(desk.torrents)),
        web.get(f"{PREFIX}/torrents/{{sha256:[0-9a-f]{{64}}}}", told(desk.piece_hashes)),
        web.get(f"{PREFIX}/blobs/{{sha256:[0-9a-f]{{64}}}}", told(desk.blob)),
        web.get(f"{PREFIX}/coming/{{sha256:[0-9a-f]{{64}}}}", told(desk.coming)),
    ]


class _Desk:
    """The handlers; each returns the answer or raises what went wrong."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def model(self, request: web.Request) -> web.StreamResponse:
        """What is here of a repository at a branch, tag or commit."""
        named = request.match_info
        repo = files.repo_named("/".join(filter(None, (named.get("owner"), named["name"]))))
        revision = files.revision_named(request.query.get("revision", "main"))
        manifest = await self._context.call(self._manifest, repo, revision)
        reply = PeerModel(
            repo=str(repo),
            revision=revision,
            commit=manifest.commit,
            files=[LockedFile(path=f.path, size=f.size, sha256=f.sha256) for f in manifest.files],
            complete=manifest.complete,
            private=not manifest.is_public,
        )
        return _json(reply)

    async def holding(self, request: web.Request) -> web.StreamResponse:
        """Which blobs of a list would be sent."""
        return _json(await self._context.call(self._blobs, _asked(request)))

    async def torrents(self, request: web.Request) -> web.StreamResponse:
        """Which torrents of a list of blobs this machine is in."""
        own, asked = self._own(), _asked(request)
        found = await self._context.call(self._public, own, asked)
        return _json(PeerTorrents(port=own.port, torrents=found, drawer=own.drawer))

    async def piece_hashes(self, request: web.Request) -> web.StreamResponse:
        """The hashes of the pieces of one torrent."""
        sha256, own = request.match_info["sha256"], self._own()
        found = await self._context.call(self._public, own, [sha256])
        hashes = own.hashes(sha256) if sha256 in found else None
        if hashes is None:
            raise failures.FileMissing(mark("no torrent of {sha256} is known here"), sha256=sha256)
        return web.Response(body=hashes, content_type="application/octet-stream")

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """The bytes of a digest."""
        sha256 = request.match_info["sha256"]
        sizes = await self._context.call(self._sizes, [sha256])
        if sha256 not in sizes:
            raise failures.FileMissing(mark("no blob {sha256} is served here"), sha256=sha256)
        found = Here(sha256, None, sizes[sha256], self._context.store.blobs.path(sha256))
        return await send(request, found, _named(sha256))

    async def coming(self, request: web.Request) -> web.StreamResponse:
        """The bytes of a digest that this machine has, or brings."""
        sha256 = request.match_info["sha256"]
        shown = await self._context.call(self._context.pulls.shown, sha256)
        if shown is None:
            return await self.blob(request)
        # What is not proven yet may be taken back: no cache is to keep it.
        return await send(request, shown, {**_named(sha256), "Cache-Control": "no-store"})

    def _manifest(self, repo: RepoId, revision: str) -> Manifest:
        manifest = self._context.store.resolve(repo, revision)
        if manifest.derived is not None or not self._context.pulls.may_serve(manifest):
            raise NotFound("{repo} is not served", repo=repo)
        return manifest

    def _blobs(self, digests: list[str]) -> PeerBlobs:
        sizes, pulls = self._sizes(digests), self._context.pulls
        coming = {
            sha256: shown.size
            for sha256 in digests
            if sha256 not in sizes and (shown := pulls.shown(sha256)) is not None
        }
        return PeerBlobs(sizes=sizes, coming=coming, node=pulls.node)

    def _sizes(self, digests: list[str]) -> dict[str, int]:
        """Returns the sizes of those blobs that are here, sound, and part of what is served."""
        store = self._context.store
        judged: dict[tuple[str, str], bool] = {}
        sizes: dict[str, int] = {}
        for sha256 in digests:
            for repo, commit, size in listing.users(store.catalog, sha256):
                if (repo, commit) not in judged:
                    judged[repo, commit] = self._may(repo, commit)
                if judged[repo, commit] and store.presence.is_sound(sha256, size):
                    sizes[sha256] = size
                    break
        return sizes

    def _own(self) -> OwnTorrents:
        if self._context.torrents is None:
            raise failures.FileMissing(mark("this machine takes part in no swarm"))
        return self._context.torrents

    def _public(self, own: OwnTorrents, digests: list[str]) -> dict[str, PeerTorrent]:
        """Returns the torrents of what everybody may have: no token is asked for in a swarm.

        What no snapshot has yet is just coming by a swarm, which has nothing else.
        """
        catalog, pulls = self._context.store.catalog, self._context.pulls
        told: dict[str, PeerTorrent] = {}
        for sha256, torrent in own.told(digests).items():
            users = listing.users(catalog, sha256)
            if not users or any(self._is(pulls.is_public, r, c) for r, c, _ in users):
                told[sha256] = torrent
        return told

    def _may(self, repo: str, commit: str) -> bool:
        return self._is(self._context.pulls.may_serve, repo, commit)

    def _is(self, judge: Callable[[Manifest], bool], repo: str, commit: str) -> bool:
        try:
            manifest = self._context.store.manifests.read(parse_repo(repo), commit)
        except (FileNotFoundError, ZhcacheError):
            return False
        return judge(manifest)


def _named(sha256: str) -> dict[str, str]:
    return {"ETag": f'"{sha256}"', "Content-Type": "application/octet-stream"}


def _asked(request: web.Request) -> list[str]:
    asked = request.query.get("sha256", "").split(",")
    if len(asked) > MAX_DIGESTS or not all(map(is_sha256, asked)):
        raise UsageError(
            mark("sha256 names 1 to {limit} digests, with commas between"), limit=MAX_DIGESTS
        )
    return asked


def _json(reply: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


def _refusal(error: ZhcacheError) -> web.Response:
    told = failures.failure(error)
    headers = {"X-Error-Message": failures.header_value(told.message), **told.headers}
    return web.Response(status=told.status, text=told.message, headers=headers)
