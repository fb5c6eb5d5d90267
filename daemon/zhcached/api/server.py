"""The HTTP side of the API: peers, limits, versions and errors, once for every resource."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from zhcache.errors import Busy, NotFound, UsageError, ZhcacheError
from zhcache.protocol import version
from zhcache.protocol.failure import to_info
from zhcache.protocol.messages import ErrorReply
from zhcached.api import (
    chinese,
    doctor,
    follow,
    gateway,
    jobs,
    leases,
    logs,
    metrics,
    openapi,
    placement,
    quality,
    residency,
    service,
    snapshots,
    sources,
    space,
    watch,
)
from zhcached.api.peer import of_socket
from zhcached.api.route import Call, Route
from zhcached.api.services import Services
from zhcached.errors import defect

MAX_BODY = 2**20
MAX_CALLS_PER_UID = 1024
HEADER_DEADLINE_S = 10.0
BODY_DEADLINE_S = 30.0
_STATUS = {1: 500, 2: 400, 3: 500, 4: 404, 5: 409, 6: 507, 7: 426, 8: 403, 9: 502, 10: 502, 75: 429}

log = structlog.get_logger()

ROUTES: tuple[Route, ...] = (
    *service.ROUTES,
    *jobs.ROUTES,
    *snapshots.ROUTES,
    *space.ROUTES,
    *sources.ROUTES,
    *leases.ROUTES,
    *residency.ROUTES,
    *placement.ROUTES,
    *quality.ROUTES,
    *chinese.ROUTES,
    *logs.ROUTES,
    *doctor.ROUTES,
    *gateway.ROUTES,
    *follow.ROUTES,
    *watch.ROUTES,
    *metrics.ROUTES,
    *openapi.routes(lambda: ROUTES),
)


def build(services: Services) -> web.Application:
    """Returns the application that answers on the socket."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_guard(Counter())])
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _entry(route, services))
    return app


def runner(app: web.Application) -> web.AppRunner:
    """Returns the runner; a header that does not arrive in time ends its connection."""
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=HEADER_DEADLINE_S,
        handler_cancellation=True,
        shutdown_timeout=2.0,
    )


def failure(error: ZhcacheError) -> web.Response:
    """Returns the answer that tells an error."""
    body = msgspec.json.encode(ErrorReply(error=to_info(error)))
    status = _STATUS.get(error.exit_code, 500)
    headers = {"Retry-After": "5"} if status == 429 else {}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def _entry(
    route: Route, services: Services
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    decoder = msgspec.json.Decoder(route.takes) if route.takes else None

    async def answer(request: web.Request) -> web.StreamResponse:
        body = None
        if decoder is not None:
            try:
                body = decoder.decode(await asyncio.wait_for(request.read(), BODY_DEADLINE_S))
            except (msgspec.MsgspecError, RecursionError) as error:
                raise UsageError("the request is malformed: {reason}", reason=error) from error
            except TimeoutError:
                raise UsageError("the request's body did not arrive in time") from None
        call = Call(request, request["peer"], services, body)
        reply = await route.handler(call)
        if isinstance(reply, web.StreamResponse):
            return reply
        if reply is None:
            return web.Response(status=204)
        return web.Response(
            body=msgspec.json.encode(reply), status=route.status, content_type="application/json"
        )

    return answer


def _guard(calls: Counter[int]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Returns the one middleware: who calls, how much, in what version, and what went wrong."""

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise asyncio.CancelledError
        request["peer"] = peer = of_socket(transport.get_extra_info("socket"))
        calls[peer.uid] += 1
        try:
            _check_share(calls, peer.uid)
            if request.path != "/v1/version":
                version.check(request.headers.get(version.HEADER))
            return await handler(request)
        except ZhcacheError as error:
            return failure(error)
        except web.HTTPException as error:
            return failure(_from_http(error, request))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception("api.defect", method=request.method, path=request.path)
            return failure(defect(error))
        finally:
            calls[peer.uid] -= 1
            if not calls[peer.uid]:
                del calls[peer.uid]

    return guard


def _check_share(calls: Counter[int], uid: int) -> None:
    if calls[uid] > MAX_CALLS_PER_UID:
        raise Busy(
            "uid {uid} has {count} calls open, the most one user may have",
            hint="close some and try again",
            uid=uid,
            count=MAX_CALLS_PER_UID,
        )


def _from_http(error: web.HTTPException, request: web.Request) -> ZhcacheError:
    if error.status == 404:
        return NotFound(
            "the daemon has no {method} {path}",
            hint="it may be older than this client: zhcache daemon status",
            method=request.method,
            path=request.path[:80],
        )
    if error.status == 413:
        return UsageError("the request is larger than {limit} bytes", limit=MAX_BODY)
    return UsageError("{reason}", reason=error.reason)
