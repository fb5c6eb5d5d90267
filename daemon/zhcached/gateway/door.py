"""Who is let in, and how often. Decides on a request's header alone; lives on the gateway's loop.

A browser is no client of a gateway, and a page that a user of this machine has open must not be
one through him: what comes from a page is refused, and while only this machine can connect, so is
any name in ``Host`` that is not this machine's, since by another name a page from elsewhere could
pass for one from here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from zhcache.errors import ZhcacheError
from zhcached.gateway.context import ASKER, CONTEXT
from zhcached.gateway.share import Share

BODY_DEADLINE_S = 10.0
MAX_URL = 4096

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


def digest_of(token: str) -> str:
    """Returns what is kept of a token."""
    # Of a header bytes come that are no text, each as a surrogate.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def shown_tokens(headers: Mapping[str, str], cookies: Mapping[str, str]) -> list[str]:
    """Returns the tokens that a client shows, as clients of either hub send them. Pure."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    shown = [value.strip()] if scheme.lower() == "bearer" else []
    if "m_session_id" in cookies:
        shown.append(cookies["m_session_id"])
    return shown


def is_known(shown: list[str], digest: str) -> bool:
    """Tells whether one of the tokens is the one."""
    return any(hmac.compare_digest(digest_of(token), digest) for token in shown)


def is_page(headers: Mapping[str, str]) -> bool:
    """Tells whether a page in a browser sends this, rather than a program. Pure."""
    return "Origin" in headers or headers.get("Sec-Fetch-Site", "none") != "none"


def is_own_name(host: str, names: frozenset[str]) -> bool:
    """Tells whether ``Host`` is an address or one of ``names``, not a name from elsewhere. Pure."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name.lower().rstrip(".") in names
    return True


def own_names() -> frozenset[str]:
    """Returns the names by which this machine may call itself."""
    name = socket.gethostname().lower()
    return frozenset({"localhost", "localhost.localdomain", name, name.partition(".")[0]})


class Door:
    """The one middleware.

    Args:
        token: Digest of the token that clients must show; None lets all in, and what they show
            is not looked at.
        share: Requests of each address.
        names: What ``Host`` may say; None is anything.
    """

    def __init__(self, token: str | None, share: Share, names: frozenset[str] | None) -> None:
        self._token = token
        self._share = share
        self._names = names

    def middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        """Returns it."""

        @web.middleware
        async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
            traffic = request.app[CONTEXT].traffic
            traffic.requests += 1
            ASKER.set(request.remote or "")
            refusal = self._refusal(request)
            if refusal is not None:
                traffic.refused += 1
                return refusal
            return await _handled(request, handler)

        return door

    def _refusal(self, request: web.Request) -> web.Response | None:
        if is_page(request.headers):
            return refused(403, "the gateway does not serve pages of a browser")
        # Whoever sends none is no browser.
        host = request.headers.get("Host", "localhost")
        if self._names is not None and not is_own_name(host, self._names):
            return refused(403, "the gateway is not known by this name")
        if len(request.raw_path) > MAX_URL:
            return refused(414, "the address is too long")
        if wait_s := self._share.take(request.remote or ""):
            limit, left = self._share.limit, int(wait_s + 0.999)
            response = refused(429, "too many requests from this address")
            response.headers["Retry-After"] = str(left)
            # As Hugging Face says it; its client waits as long.
            response.headers["RateLimit"] = f'"api";r=0;t={left}'
            response.headers["RateLimit-Policy"] = f'"fixed window";"api";q={limit};w=60'
            return response
        if self._token is not None:
            shown = shown_tokens(request.headers, request.cookies)
            if not is_known(shown, self._token):
                response = refused(401, "the gateway asks for a token")
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
        return None


async def _handled(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if request.can_read_body:
            await asyncio.wait_for(request.read(), BODY_DEADLINE_S)
        return await handler(request)
    except TimeoutError:
        return refused(408, "the request's body did not arrive in time")
    except web.HTTPException as error:
        return refused(error.status, error.reason)
    except ZhcacheError as error:
        # Of a handler that has no words of its own for it.
        return refused(502, error.message)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except Exception:
        # The path and nothing else: headers may hold secrets.
        log.exception("gateway.defect", method=request.method, path=request.path[:200])
        return refused(500, "the gateway met a defect of its own")


def refused(status: int, reason: str) -> web.Response:
    """Returns an answer that both hubs' clients can show."""
    body = {"error": reason, "Code": status, "Message": reason, "Success": False}
    headers = {"X-Error-Message": reason}
    return web.json_response(body, status=status, headers=headers)
