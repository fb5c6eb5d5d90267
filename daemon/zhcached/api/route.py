"""What a resource of the API is made of: routes that name what they take and give.

The same table registers the handlers and writes the OpenAPI description, so that neither can
drift from the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from zhcache.errors import UsageError
from zhcache.protocol.names import (
    RepoId,
    Revision,
    Variant,
    parse_repo,
    parse_revision,
    parse_variant,
)

if TYPE_CHECKING:
    from zhcached.api.peer import Peer
    from zhcached.api.services import Services


@dataclass(frozen=True, slots=True)
class Call:
    """One request, its caller and its decoded body."""

    request: web.Request
    peer: Peer
    services: Services
    body: Any = None

    def repo(self) -> RepoId:
        """Returns the repository in the path.

        Raises:
            UsageError: It is not a repository's name.
        """
        return parse_repo(self.request.match_info["repo"])

    def revision(self) -> Revision | None:
        """Returns the ``revision`` of the query, if there is one.

        Raises:
            UsageError: It is not a revision.
        """
        text = self.request.query.get("revision")
        return parse_revision(text) if text else None

    def variant(self) -> Variant | None:
        """Returns the ``variant`` of the query, if there is one.

        Raises:
            UsageError: It is not a variant's name.
        """
        text = self.request.query.get("variant")
        return None if text is None else parse_variant(text)

    def flag(self, name: str) -> bool:
        """Tells whether the query has ``name`` switched on."""
        return self.request.query.get(name, "") in ("1", "true", "yes")

    def number(self, name: str, default: int, highest: int) -> int:
        """Returns a whole number of the query, at most ``highest``.

        Raises:
            UsageError: It is not one.
        """
        text = self.request.query.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise UsageError("{name} takes a whole number", name=name)
        return min(int(text), highest)


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One verb on one path. ``takes`` and ``gives`` are message types; None is no body."""

    method: str
    path: str
    handler: Handler
    summary: str
    takes: type[msgspec.Struct] | None = None
    gives: type[msgspec.Struct] | None = None
    status: int = 200
    streams: bool = False


async def stream(
    request: web.Request, content_type: str = "application/x-ndjson"
) -> web.StreamResponse:
    """Starts an answer of unknown length."""
    response = web.StreamResponse(
        headers={"Content-Type": content_type, "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    return response


def line(message: msgspec.Struct) -> bytes:
    """Returns ``message`` as one line of JSON."""
    return msgspec.json.encode(message) + b"\n"
