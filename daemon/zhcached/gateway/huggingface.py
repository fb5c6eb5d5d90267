"""The Hugging Face protocol, for clients that know nothing of this store.

Files are answered at once and never by a redirect: huggingface_hub takes one to this same origin
for an error, and there is no other origin. Nothing is said of Xet, since no client falls back from
it to plain HTTP. Only models are here.

Source: the requests of huggingface_hub 1.x and 2.4, of transformers, diffusers and vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from zhcache.errors import NotFound, UsageError, ZhcacheError
from zhcache.i18n import mark
from zhcached.gateway import documents, failures, files, identity, targets
from zhcached.gateway.answers import json_answer, telling
from zhcached.gateway.failures import FileLeftOut, FileMissing

if TYPE_CHECKING:
    from zhcached.gateway.context import Context
    from zhcached.jobs.pulling.pull import Listed

PAGE_ENTRIES = 1000
"""Of one answer about the tree, as at the hub."""


def routes(context: Context) -> list[web.RouteDef]:
    """Returns the routes of this protocol."""
    speaker = _Speaker(context)
    api, file, other = (
        telling(handler, _refusal) for handler in (speaker.api, speaker.file, speaker.other)
    )
    return [
        web.get("/api/models/{tail:.+}", api),
        web.post("/api/models/{tail:.+}", api),
        web.get("/api/whoami-v2", speaker.whoami),
        web.get("/api/{tail:(datasets|spaces)/.+}", other),
        web.get("/{kind:(datasets|spaces)}/{tail:.+/resolve/.+}", other),
        web.get("/{name:[^/]+}/resolve/{tail:.+}", file),
        web.get("/{owner:[^/]+}/{name:[^/]+}/resolve/{tail:.+}", file),
    ]


class _Paths(msgspec.Struct):
    paths: list[str] = []


class _Speaker:
    """The handlers; each returns the answer or raises what went wrong."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def api(self, request: web.Request) -> web.StreamResponse:
        """``/api/models/...``: what is told of a repository."""
        asked = targets.api(_quoted(request).removeprefix("/api/models/"))
        if asked.verb in ("other", "xet"):
            raise NotFound(mark("the gateway has no {path}"), path=request.path)
        listed = await self._listed(asked)
        match asked.verb:
            case "info":
                blobs = request.query.get("blobs", "").lower() == "true"
                told = await self._context.call(documents.info, listed, blobs=blobs)
                return json_answer(told)
            case "refs":
                repo = files.repo_named(asked.repo)
                known = await self._context.call(self._context.pulls.refs, repo)
                return json_answer(documents.refs({**known, "main": listed.commit}))
            case "paths":
                paths = await _paths(request)
                return json_answer(await self._context.call(documents.some, listed, paths))
            case _:
                return await self._tree(request, listed, asked.path)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """``/OWNER/NAME/resolve/REVISION/PATH``: the bytes of a file, or only its header."""
        repo, _, tail = _quoted(request).lstrip("/").partition("/resolve/")
        asked = targets.file(repo, tail)
        listed = await self._listed(asked)
        headers = {"X-Repo-Commit": listed.commit}
        try:
            file = files.wanted(listed, asked.path)
        except FileLeftOut:
            raise
        except FileMissing as error:
            # With the commit the client remembers that there is no such file, and asks no more.
            return _refusal(error, headers)
        if identity.is_large(file):
            headers["X-Linked-Etag"] = identity.entity_tag(file)
            headers["X-Linked-Size"] = str(file.size)
        return await files.answer(self._context, request, listed, asked.path, headers)

    async def whoami(self, request: web.Request) -> web.StreamResponse:
        """Who asks: nobody, for a token is not passed on to any hub."""
        del request
        message = "the gateway has no accounts, and passes no token on"
        return json_answer({"error": message}, 401, {"X-Error-Message": message})

    async def other(self, request: web.Request) -> web.StreamResponse:
        """Data sets and spaces."""
        del request
        raise NotFound(
            mark("the gateway serves models; data sets and spaces it does not"),
            hint=mark("unset HF_ENDPOINT to fetch them from the hub itself"),
        )

    async def _tree(self, request: web.Request, listed: Listed, folder: str) -> web.Response:
        recursive = request.query.get("recursive", "").lower() in ("true", "1")
        # Thousands of files take a while, in which the loop has other clients to serve.
        entries = await self._context.call(documents.tree, listed, folder, recursive=recursive)
        if folder and not entries:
            raise FileMissing(mark("{repo} has no folder {path}"), repo=listed.repo, path=folder)
        first = _number(request, "cursor", 0)
        following = first + max(1, min(PAGE_ENTRIES, _number(request, "limit", PAGE_ENTRIES)))
        headers: dict[str, str] = {}
        if following < len(entries):
            url = request.url.update_query(cursor=str(following))
            headers["Link"] = f'<{url}>; rel="next"'
        return json_answer(entries[first:following], headers=headers)

    async def _listed(self, asked: targets.Asked) -> Listed:
        repo = files.repo_named(asked.repo)
        revision = files.revision_named(asked.revision) if asked.revision else None
        return await self._context.listed(repo, revision)


def _quoted(request: web.Request) -> str:
    return request.rel_url.raw_path


def _refusal(error: ZhcacheError, headers: dict[str, str] | None = None) -> web.Response:
    told = failures.failure(error)
    named = {**(headers or {}), **failures.huggingface_headers(error)}
    return json_answer({"error": told.message}, told.status, named)


async def _paths(request: web.Request) -> Iterable[str]:
    """Returns the paths that a POST asks about, of a form or of JSON."""
    try:
        if request.content_type == "application/json":
            return msgspec.json.decode(await request.read(), type=_Paths).paths
        form = await request.post()
        return [value for value in form.getall("paths", []) if isinstance(value, str)]
    # Of a body that is no form, in a charset that is none, or nested too deep.
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError) as error:
        raise UsageError(mark("the paths that are asked for cannot be read")) from error


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default
