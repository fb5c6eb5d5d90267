"""Snapshots: what is held, with its files; removal, pins, lock files."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.messages import (
    LockFile,
    LockRequest,
    Removed,
    SnapshotDetail,
    Snapshots,
)
from zhcache.protocol.names import RepoId, Revision
from zhcached.api.route import Call, Route
from zhcached.convert.plan import REPORT
from zhcached.convert.report import MAX_REPORT, parts


async def list_snapshots(call: Call) -> Snapshots:
    """Lists all snapshots."""
    return Snapshots(snapshots=await asyncio.to_thread(call.services.store.snapshots))


async def show(call: Call) -> SnapshotDetail:
    """Shows one snapshot, or a variant of it, with its files."""
    return await asyncio.to_thread(_show, call, call.repo(), call.revision(), call.variant())


def _show(
    call: Call, repo: RepoId, revision: Revision | None, variant: str | None
) -> SnapshotDetail:
    found = call.services.store.detail(repo, revision, variant)
    for file in found.files if variant is not None else ():
        if file.path == REPORT and file.size <= MAX_REPORT:
            # What is damaged there is for verify to tell.
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                found.parts = parts(Path(file.blob).read_bytes())
    return found


async def remove(call: Call) -> Removed:
    """Lets a repository go, or one of its revisions, with the variants made of it."""
    removed = await asyncio.to_thread(
        call.services.store.remove,
        call.repo(),
        call.revision(),
        call.peer.uid,
        may_all=call.peer.may_all,
    )
    removed.followed = any(one.repo == removed.repo for one in call.services.following.all())
    return removed


async def remove_variant(call: Call) -> Removed:
    """Lets a variant go, of one revision or of all."""
    name = call.variant()
    if name is None:
        raise UsageError("which variant is to go is not said")
    return await asyncio.to_thread(
        call.services.store.remove_variant,
        call.repo(),
        call.revision(),
        name,
        call.peer.uid,
        may_all=call.peer.may_all,
    )


async def pin(call: Call) -> None:
    """Protects a repository from being removed."""
    await asyncio.to_thread(call.services.store.pins.pin, call.repo(), call.peer.uid)


async def unpin(call: Call) -> None:
    """Ends that protection, if the caller began it."""
    peer = call.peer
    unpin = call.services.store.pins.unpin
    await asyncio.to_thread(unpin, call.repo(), peer.uid, may_all=peer.may_all)


async def lock(call: Call) -> LockFile:
    """Gives the pinned commits and hashes of repositories held here."""
    request: LockRequest = call.body
    return await asyncio.to_thread(call.services.store.lock_file, request.repos)


_REPO = "{repo:[^/]+(?:/[^/]+)?}"
ROUTES = (
    Route("GET", "/v1/snapshots", list_snapshots, "List snapshots", gives=Snapshots),
    Route("GET", f"/v1/snapshots/{_REPO}", show, "Show a snapshot", gives=SnapshotDetail),
    Route("DELETE", f"/v1/snapshots/{_REPO}", remove, "Remove snapshots", gives=Removed),
    Route("DELETE", f"/v1/variants/{_REPO}", remove_variant, "Remove a variant", gives=Removed),
    Route("PUT", f"/v1/pins/{_REPO}", pin, "Pin a repository", status=204),
    Route("DELETE", f"/v1/pins/{_REPO}", unpin, "Unpin a repository", status=204),
    Route("POST", "/v1/locks", lock, "Write a lock file", takes=LockRequest, gives=LockFile),
)
