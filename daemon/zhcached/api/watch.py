"""Watched folders: which they are, how they stand, add one, take one off."""

from __future__ import annotations

from zhcache.errors import UsageError
from zhcache.protocol.watch import Watched, WatchedFolder, WatchRequest
from zhcached.api.route import Call, Route


async def show(call: Call) -> Watched:
    """Returns every watched folder."""
    return Watched(folders=call.services.watching.all())


async def add(call: Call) -> WatchedFolder:
    """Watches a folder from now on."""
    request: WatchRequest = call.body
    return await call.services.watching.add(request.folder, may_all=call.peer.may_all)


async def remove(call: Call) -> None:
    """Watches a folder no more."""
    folder = call.request.query.get("folder")
    if not folder:
        raise UsageError("which folder is to be watched no more is not said")
    await call.services.watching.remove(folder, may_all=call.peer.may_all)


ROUTES = (
    Route("GET", "/v1/watched", show, "Folders that are taken in as they change", gives=Watched),
    Route("POST", "/v1/watched", add, "Watch a folder", takes=WatchRequest, gives=WatchedFolder),
    Route("DELETE", "/v1/watched", remove, "Watch a folder no more", status=204),
)
