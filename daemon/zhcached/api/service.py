"""The daemon itself: who it is, and how it is stopped."""

from __future__ import annotations

import os

from aiohttp import web

from zhcache import __version__
from zhcache.errors import NotPermitted
from zhcache.protocol.messages import Version
from zhcache.protocol.version import PROTOCOL, PROTOCOL_MIN
from zhcached.api.route import Call, Route


async def show_version(call: Call) -> Version:
    """Tells who answers; understood by clients of every age."""
    return Version(
        version=__version__,
        protocol=PROTOCOL,
        protocol_min=PROTOCOL_MIN,
        home=str(call.services.home),
        pid=os.getpid(),
        uid=os.geteuid(),
        started=call.services.started,
    )


async def stop(call: Call) -> web.Response:
    """Ends the daemon; running jobs go on at its next start."""
    if not call.peer.may_all:
        raise NotPermitted(
            "only root and the daemon's own user may stop it",
            hint="ask an administrator: systemctl stop zhcached",
        )
    call.services.stopping.set()
    return web.Response(status=202)


ROUTES = (
    Route("GET", "/v1/version", show_version, "Who answers", gives=Version),
    Route("POST", "/v1/stop", stop, "Stop the daemon", status=202),
)
