"""Jobs: start them, see them, follow them, cancel them."""

from __future__ import annotations

import asyncio

from aiohttp import web

from zhcache.errors import UsageError
from zhcache.protocol.messages import (
    Job,
    Jobs,
    LockedRepo,
    PrefetchPlan,
    PrefetchRequest,
    VerifyRequest,
)
from zhcache.protocol.names import (
    check_listing,
    is_sha256,
    parse_path,
    parse_repo,
    parse_revision,
)
from zhcached.api.route import Call, Route, line, stream
from zhcached.jobs import state
from zhcached.jobs.prefetch import key_of

MAX_PATTERNS = 100
MAX_PATTERN = 1024
MAX_VARIANTS = 16


async def prefetch(call: Call) -> Job | PrefetchPlan | web.Response:
    """Starts or joins a prefetch; a dry run is answered at once with its plan."""
    request: PrefetchRequest = call.body
    _check(request)
    call.services.prefetcher.variants.check(request.variants)
    if request.dry_run:
        plan = await call.services.planner.plan(request, call.peer.uid)
        return web.Response(body=line(plan), content_type="application/json")
    submitting = call.services.jobs.submit(state.Prefetch(request), key_of(request), call.peer.uid)
    return await asyncio.shield(submitting)


def _check(request: PrefetchRequest) -> None:
    parse_repo(request.repo)
    if request.revision is not None:
        parse_revision(request.revision)
    if len(request.include) + len(request.exclude) > MAX_PATTERNS:
        raise UsageError("more than {limit} patterns", limit=MAX_PATTERNS)
    if request.lock is not None and request.lock.repo != request.repo:
        raise UsageError(
            "the lock file's entry is for {locked}, not for {repo}",
            locked=request.lock.repo,
            repo=request.repo,
        )
    for pattern in (*request.include, *request.exclude):
        if len(pattern) > MAX_PATTERN:
            raise UsageError("a pattern is longer than {limit} characters", limit=MAX_PATTERN)
    if request.lock is not None:
        _check_lock(request.lock)
    if len(request.variants) > MAX_VARIANTS:
        raise UsageError("more than {limit} variants", limit=MAX_VARIANTS)


def _check_lock(lock: LockedRepo) -> None:
    parse_revision(lock.commit)
    parse_revision(lock.revision)
    check_listing([parse_path(file.path) for file in lock.files])
    for file in lock.files:
        if file.size < 0 or not is_sha256(file.sha256):
            raise UsageError(
                "the lock file has no sha256 and size for {path}",
                hint="make it anew with `zhcache lock REPO > FILE`",
                path=file.path,
            )


async def verify(call: Call) -> Job:
    """Starts a re-hash of a repository's blobs, or of all."""
    request: VerifyRequest = call.body
    if request.repo is not None:
        parse_repo(request.repo)
    submitting = call.services.jobs.submit(
        state.Verify(request), f"verify {request.repo or ''}", call.peer.uid
    )
    return await asyncio.shield(submitting)


async def repair(call: Call) -> Job:
    """Starts a repair: the index from disk, then what is missing from the sources."""
    submitting = call.services.jobs.submit(state.Repair(), "repair", call.peer.uid)
    return await asyncio.shield(submitting)


async def list_jobs(call: Call) -> Jobs:
    """Lists unfinished jobs, or all with ``all=1``."""
    return Jobs(jobs=call.services.jobs.all(ended=call.flag("all")))


async def show(call: Call) -> Job:
    """Shows one job."""
    return call.services.jobs.find(call.request.match_info["id"])


async def cancel(call: Call) -> Job:
    """Cancels one job of the caller's."""
    return await call.services.jobs.cancel(
        call.request.match_info["id"], uid=call.peer.uid, may_all=call.peer.may_all
    )


async def events(call: Call) -> web.StreamResponse:
    """Streams pictures of one job until it has ended."""
    pictures = call.services.jobs.follow(call.request.match_info["id"])
    response = await stream(call.request)
    async for job in pictures:
        await response.write(line(job))
    await response.write_eof()
    return response


ROUTES = (
    Route(
        "POST", "/v1/prefetch", prefetch, "Start or join a prefetch",
        takes=PrefetchRequest, gives=Job, status=202,
    ),
    Route(
        "POST", "/v1/verify", verify, "Re-hash blobs",
        takes=VerifyRequest, gives=Job, status=202,
    ),
    Route("POST", "/v1/repair", repair, "Repair the store", gives=Job, status=202),
    Route("GET", "/v1/jobs", list_jobs, "List jobs", gives=Jobs),
    Route("GET", "/v1/jobs/{id}", show, "Show a job", gives=Job),
    Route("GET", "/v1/jobs/{id}/events", events, "Follow a job", gives=Job, streams=True),
    Route("POST", "/v1/jobs/{id}/cancel", cancel, "Cancel a job", gives=Job),
)  # fmt: skip
