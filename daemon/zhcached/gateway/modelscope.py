"""The ModelScope protocol, for clients that know nothing of this store.

Its clients download by branch, and check each file against the sha256 of the listing. A file that a
Hugging Face hub keeps in git has no sha256 until its bytes are here, and without one the client
takes a cached file of the same size for the same file. So such files, which are small, are fetched
before the listing is answered.

Source: the requests of modelscope 1.40 and modelscope-hub 0.5, and the fields that they read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import uuid4

from aiohttp import web

from zhcache.errors import NotFound, ZhcacheError
from zhcache.i18n import mark
from zhcached.gateway import documents, failures, files
from zhcached.gateway.answers import Handler, json_answer, telling
from zhcached.gateway.digests import known_digests

if TYPE_CHECKING:
    from zhcached.gateway.context import Context
    from zhcached.jobs.pulling.pull import Listed

DEFAULT_BRANCH = "master"
_SHOWN_AS_DEFAULT = ("main", "master")


def routes(context: Context) -> list[web.RouteDef]:
    """Returns the routes of this protocol."""
    speaker = _Speaker(context)

    def told(handler: Handler) -> Handler:
        return telling(handler, _refusal)

    model = "/api/v1/models/{owner:[^/]+}/{name:[^/]+}"
    return [
        web.get("/api/v1/repos/internalAccelerationInfo", told(speaker.region)),
        web.get(model, told(speaker.info)),
        web.get(f"{model}/revisions", told(speaker.revisions)),
        web.get(f"{model}/repo/files", told(speaker.listing)),
        web.get(f"{model}/repo", told(speaker.file)),
        web.get("/openapi/v1/models/{owner:[^/]+}/{name:[^/]+}", told(speaker.info)),
        web.get(
            "/models/{owner:[^/]+}/{name:[^/]+}/resolve/{revision:[^/]+}/{path:.+}",
            told(speaker.resolve),
        ),
        web.get("/api/v1/{tail:.+}", told(speaker.other)),
        web.get("/openapi/v1/{tail:.+}", told(speaker.other)),
    ]


class _Speaker:
    """The handlers; each returns the answer or raises what went wrong."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def region(self, request: web.Request) -> web.StreamResponse:
        """Where in Alibaba's cloud this is: nowhere."""
        del request
        return _success({"InternalRegionQueryAddress": ""})

    async def info(self, request: web.Request) -> web.StreamResponse:
        """What a model is, in the words of both of the hub's interfaces."""
        listed = await self._listed(request, request.query.get("Revision", ""))
        owner, _, name = listed.repo.rpartition("/")
        told = {"Path": owner, "Name": name, "Revision": listed.commit, "Tags": []}
        also = {"id": listed.repo, "private": listed.private, "gated": False}
        return json_answer(_envelope(told) | {"success": True, "data": also})

    async def revisions(self, request: web.Request) -> web.StreamResponse:
        """The branches that are known here; that a name is a tag is not."""
        listed = await self._listed(request, "")
        repo = files.repo_named(listed.repo)
        known = await self._context.call(self._context.pulls.refs, repo)
        names = [name for name in known if name not in _SHOWN_AS_DEFAULT and name[:5] != "refs/"]
        branches = [{"Revision": name, "CreatedAt": 0} for name in (DEFAULT_BRANCH, *names)]
        return _success({"RevisionMap": {"Branches": branches, "Tags": []}})

    async def listing(self, request: web.Request) -> web.StreamResponse:
        """All files, or those of a folder, with the sha256 of each."""
        listed = await self._listed(request, request.query.get("Revision", ""))
        recursive = request.query.get("Recursive", "").lower() in ("true", "1")
        root = request.query.get("Root", "").strip("/")
        entries = await self._context.call(documents.tree, listed, root, recursive=recursive)
        if root and not entries:
            raise failures.FileMissing(
                mark("{repo} has no folder {path}"), repo=listed.repo, path=root
            )
        shown = {entry["path"] for entry in entries}
        digests = await known_digests(
            self._context, listed, [file for file in listed.files if file.path in shown]
        )
        return _success({"Files": [_entry(listed, entry, digests) for entry in entries]})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """The bytes of the file that the query names."""
        query = request.query
        return await self._bytes(request, query.get("Revision", ""), query.get("FilePath", ""))

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        """The bytes of a file, by a path like the other hub's."""
        named = request.match_info
        return await self._bytes(request, unquote(named["revision"]), named["path"])

    async def other(self, request: web.Request) -> web.StreamResponse:
        """All that the hub has besides models."""
        raise NotFound(
            mark("the gateway has no {path}"),
            hint=mark("it serves models; unset MODELSCOPE_ENDPOINT to reach the hub itself"),
            path=request.path,
        )

    async def _bytes(self, request: web.Request, revision: str, path: str) -> web.StreamResponse:
        listed = await self._listed(request, revision)
        file = files.wanted(listed, path)
        headers = {} if file.sha256 is None else {"X-Linked-ETag": f'"{file.sha256}"'}
        return await files.answer(self._context, request, listed, path, headers)

    async def _listed(self, request: web.Request, revision: str) -> Listed:
        named = request.match_info
        repo = files.repo_named(f"{named['owner']}/{named['name']}")
        # ``main`` and ``master`` are one branch to whoever lists.
        wanted = files.revision_named(revision) if revision else None
        return await self._context.listed(repo, wanted)


def _entry(listed: Listed, entry: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    path: str = entry["path"]
    is_file = entry["type"] == "file"
    return {
        "Path": path,
        "Name": path.rpartition("/")[2],
        "Type": "blob" if is_file else "tree",
        "Size": entry["size"],
        "Sha256": digests.get(path, ""),
        "Revision": listed.commit,
        "IsLFS": "lfs" in entry,
        "Mode": "33188" if is_file else "16384",
        "CommittedDate": 0,
    }


def _envelope(content: object) -> dict[str, Any]:
    return {
        "Code": 200,
        "Data": content,
        "Message": "success",
        "RequestId": uuid4().hex,
        "Success": True,
    }


def _success(content: object) -> web.Response:
    return json_answer(_envelope(content))


def _refusal(error: ZhcacheError) -> web.Response:
    told = failures.failure(error)
    body = {
        # The hub's own codes tell more than the status; a status is no code of theirs.
        "Code": told.status,
        "Message": told.message,
        "RequestId": uuid4().hex,
        "Success": False,
    }
    return json_answer(body, told.status, told.headers)
