"""All that the gateway answers: each protocol's routes, and a word on what is none."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from zhcached.gateway import huggingface, modelscope, peers
from zhcached.gateway.context import Context


def routes(context: Context) -> Sequence[web.RouteDef]:
    """Returns the routes, in the order in which they are tried."""
    return [
        # First: the paths of a hub begin with the owner of a model, whatever that is.
        *peers.routes(context),
        *huggingface.routes(context),
        *modelscope.routes(context),
        web.get("/", _greet),
    ]


async def _greet(_request: web.Request) -> web.Response:
    return web.Response(text="zhcache gateway: set HF_ENDPOINT or MODELSCOPE_ENDPOINT to this\n")
