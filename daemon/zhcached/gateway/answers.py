"""What the handlers of every protocol share: JSON out, errors in words of the protocol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from zhcache.errors import ZhcacheError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_answer(
    document: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Returns an answer whose body is ``document`` in JSON."""
    body = msgspec.json.encode(document)
    return web.Response(
        body=body, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def telling(handler: Handler, refusal: Callable[[ZhcacheError], web.Response]) -> Handler:
    """Returns the handler with what it raises made an answer by ``refusal``."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ZhcacheError as error:
            return refusal(error)

    return handle
