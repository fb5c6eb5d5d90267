"""``op: import`` on the handover socket: a user's own files, by descriptor, become a job.

The daemon never opens a path that a client names: the client opens its own files, under its own
rights, and hands them over. Source of the rule: CVE-2024-27297 and its kin, a service talked into
opening a path.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import Collection

from zhcache.errors import IntegrityError, UsageError
from zhcache.protocol import frames
from zhcache.protocol.messages import ImportRequest, LockedRepo
from zhcache.protocol.names import (
    RepoPath,
    check_listing,
    is_commit,
    is_sha256,
    parse_path,
    parse_repo,
    parse_revision,
)
from zhcached.api.services import Services
from zhcached.jobs import state
from zhcached.jobs.importing.arrivals import Arrivals

MAX_FILES = 10_000


def serve(
    channel: socket.socket,
    request: ImportRequest,
    uid: int,
    services: Services,
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Submits the import and answers with its job, which owns ``channel`` from then on.

    Raises:
        UsageError: A name cannot be meant.
        IntegrityError: A path cannot be kept.
        Busy: Too many jobs of this user.
        OSError: The client went away.
    """
    _check(request)
    # The answer goes over a descriptor of its own: a job that fails at once closes the other.
    with channel.dup() as answering:
        arrivals = Arrivals(channel, request)
        task = state.Import(request.repo, request.commit, request.revision)
        key = f"import {uuid.uuid4().hex}"
        submitting = services.jobs.submit(task, key, uid, arrivals)
        job = asyncio.run_coroutine_threadsafe(submitting, loop).result()
        with contextlib.suppress(OSError):
            frames.send(answering, job)


def _check(request: ImportRequest) -> None:
    parse_repo(request.repo)
    if request.revision is not None:
        parse_revision(request.revision)
    if request.commit is not None and not is_commit(request.commit):
        raise UsageError("{commit} is not a full commit", commit=request.commit[:80])
    if not 0 < len(request.files) <= MAX_FILES:
        raise UsageError("an import has 1 to {limit} files", limit=MAX_FILES)
    paths = [parse_path(file.path) for file in request.files]
    check_listing(paths)
    if any(file.sha256 and not is_sha256(file.sha256) for file in request.files):
        raise UsageError("a file's digest is not a sha256")
    if request.lock is not None:
        _check_lock(request, request.lock, set(paths))


def _check_lock(request: ImportRequest, lock: LockedRepo, paths: Collection[RepoPath]) -> None:
    if (lock.repo, lock.commit) != (request.repo, request.commit):
        raise UsageError("the lock is for {repo} at {commit}", repo=lock.repo, commit=lock.commit)
    for file in lock.files:
        if parse_path(file.path) not in paths:
            raise IntegrityError(
                "{path} of {repo}, which the lock names, is not among the files",
                hint="nothing of the model was taken in",
                path=file.path,
                repo=lock.repo,
            )
    if request.op == "checkpoint" and len(request.files) != 1:
        raise UsageError("a checkpoint is one file, not {count}", count=len(request.files))
    if request.like is not None:
        parse_repo(request.like)
