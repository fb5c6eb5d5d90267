"""The peer protocol: what other daemons ask of this one, by name and by digest.

Nothing is fetched for a peer: it asks the hubs itself, and each machine would else make every other
download. A digest is no permission: a blob is sent if a snapshot has it that may be served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from zhcache.errors import NotFound, UsageError, ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol.messages import LockedFile
from zhcache.protocol.names import RepoId, is_sha256, parse_repo
from zhcache.protocol.peers import MAX_DIGESTS, PREFIX, PeerBlobs, PeerModel
from zhcached.gateway import failures, files
from zhcached.gateway.answers import Handler, telling
from zhcached.gateway.sending import send
from zhcached.jobs.pulling.pull import Here
from zhcached.store import listing
from zhcached.store.snapshots import Manifest

if TYPE_CHECKING:
    from zhcached.gateway.context import Context


def routes(context: Context) -> list[web.RouteDef]:
    """Returns the routes of this protocol."""
    desk = _Desk(context)

    def told(handler: Handler) -> Handler:
        return telling(handler, _refusal)

    return [
        web.get(f"{PREFIX}/models/{{name:[^/]+}}", told(desk.model)),
        web.get(f"{PREFIX}/models/{{owner:[^/]+}}/{{name:[^/]+}}", told(desk.model)),
        web.get(f"{PREFIX}/blobs", told(desk.holding)),
        web.get(f"{PREFIX}/blobs/{{sha256:[0-9a-f]{{64}}}}", told(desk.blob)),
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
        asked = request.query.get("sha256", "").split(",")
        if len(asked) > MAX_DIGESTS or not all(map(is_sha256, asked)):
            raise UsageError(
                mark("sha256 names 1 to {limit} digests, with commas between"), limit=MAX_DIGESTS
            )
        return _json(PeerBlobs(sizes=await self._context.call(self._sizes, asked)))

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """The bytes of a digest."""
        sha256 = request.match_info["sha256"]
        sizes = await self._context.call(self._sizes, [sha256])
        if sha256 not in sizes:
            raise failures.FileMissing(mark("no blob {sha256} is served here"), sha256=sha256)
        found = Here(sha256, None, sizes[sha256], self._context.store.blobs.path(sha256))
        named = {"ETag": f'"{sha256}"', "Content-Type": "application/octet-stream"}
        return await send(request, found, named)

    def _manifest(self, repo: RepoId, revision: str) -> Manifest:
        manifest = self._context.store.resolve(repo, revision)
        if manifest.derived is not None or not self._context.pulls.may_serve(manifest):
            raise NotFound("{repo} is not served", repo=repo)
        return manifest

    def _sizes(self, digests: list[str]) -> dict[str, int]:
        """Returns the sizes of those blobs that are here, sound, and part of what is served."""
        store = self._context.store
        judged: dict[tuple[str, str], bool] = {}
        sizes: dict[str, int] = {}
        for sha256 in digests:
            for repo, commit, size in listing.users(store.catalog, sha256):
                if (repo, commit) not in judged:
                    judged[repo, commit] = self._may(repo, commit)
                if judged[repo, commit] and store.intake.is_sound(sha256, size):
                    sizes[sha256] = size
                    break
        return sizes

    def _may(self, repo: str, commit: str) -> bool:
        try:
            manifest = self._context.store.manifests.read(parse_repo(repo), commit)
        except (FileNotFoundError, ZhcacheError):
            return False
        return self._context.pulls.may_serve(manifest)


def _json(reply: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


def _refusal(error: ZhcacheError) -> web.Response:
    told = failures.failure(error)
    headers = {"X-Error-Message": failures.header_value(told.message), **told.headers}
    return web.Response(status=told.status, text=told.message, headers=headers)
