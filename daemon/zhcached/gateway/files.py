"""One file of a repository as an answer: what both protocols have in common."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from aiohttp import web

from zhcache.errors import IntegrityError, NotFound, UsageError
from zhcache.i18n import mark
from zhcache.protocol.names import RepoId, Revision, parse_path, parse_repo, parse_revision
from zhcached.gateway import identity
from zhcached.gateway.failures import FileLeftOut, FileMissing
from zhcached.gateway.sending import send
from zhcached.sources.refusals import RevisionMissing

if TYPE_CHECKING:
    from zhcached.gateway.context import Context
    from zhcached.jobs.pulling.pull import Listed
    from zhcached.sources.base import RemoteFile


async def answer(
    context: Context, request: web.Request, listed: Listed, path: str, headers: dict[str, str]
) -> web.StreamResponse:
    """Answers a HEAD or GET of a file; only a GET fetches what is not here.

    Args:
        context: What the gateway stands on.
        request: The request, with its range.
        listed: The revision that was asked for.
        path: As it came.
        headers: What the protocol adds.

    Raises:
        FileMissing: The revision has no such file, or it is not served.
        ZhcacheError: It cannot be fetched, and nothing was sent yet.
    """
    file = wanted(listed, path)
    named = {
        "ETag": identity.entity_tag(file),
        # Whatever it is: a browser must not take a model's page for one of this machine's.
        "Content-Type": "application/octet-stream",
        **headers,
    }
    try:
        found = await context.call(context.pulls.find, listed, file.path)
    except NotFound as error:
        raise FileMissing(error.template, hint=error.hint_template, **error.values) from error
    return await send(request, found, named)


def wanted(listed: Listed, path: str) -> RemoteFile:
    """Returns the file of that path.

    Raises:
        FileMissing: There is none, or it is not served.
    """
    try:
        name = parse_path(path)
    except IntegrityError as error:
        raise FileMissing(mark("{path} is no file's path"), path=path) from error
    reason = listed.left_out.get(name) or listed.unlisted.get(name)
    if reason is not None:
        raise FileLeftOut(
            mark("{path} of {repo} is not served: {reason}"),
            hint=mark("`pickle = true` under [serve] serves files that run code when loaded"),
            path=name,
            repo=listed.repo,
            reason=reason,
        )
    place = bisect_left(listed.files, name, key=lambda file: file.path)
    if place == len(listed.files) or listed.files[place].path != name:
        raise FileMissing(mark("{repo} has no file {path}"), repo=listed.repo, path=name)
    return listed.files[place]


def repo_named(text: str) -> RepoId:
    """Returns the repository that a request names.

    Raises:
        NotFound: No repository can have that name.
    """
    try:
        return parse_repo(text)
    except UsageError as error:
        raise NotFound(error.template, hint=error.hint_template, **error.values) from error


def revision_named(text: str) -> Revision:
    """Returns the revision that a request names.

    Raises:
        RevisionMissing: No revision can have that name.
    """
    try:
        return parse_revision(text)
    except UsageError as error:
        raise RevisionMissing(error.template, hint=error.hint_template, **error.values) from error
