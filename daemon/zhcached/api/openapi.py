"""The OpenAPI description, made from the routes and the message types themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from zhcache import __version__
from zhcache.protocol.messages import ErrorReply
from zhcached.api.route import Call, Route

_REF = "#/components/schemas/{name}"


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Returns the description of ``routes`` as OpenAPI 3.1."""
    types = {t for route in routes for t in (route.takes, route.gives) if t} | {ErrorReply}
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"{(\w+):(?:[^{}]|{[^}]*})*}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "zhcached", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, path: str) -> dict[str, Any]:
    content_type = "application/x-ndjson" if route.streams else "application/json"
    good: dict[str, Any] = {"description": route.summary}
    if route.gives:
        good["content"] = {content_type: _schema(route.gives)}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ],
        "responses": {
            str(route.status): good,
            "default": {
                "description": "An error",
                "content": {"application/json": _schema(ErrorReply)},
            },
        },
    }
    if route.takes:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": _schema(route.takes)},
        }
    return operation


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": _REF.format(name=kind.__name__)}}


def routes(all_routes: Callable[[], Sequence[Route]]) -> tuple[Route, ...]:
    """Returns the route that serves the description of ``all_routes``."""

    async def show(_: Call) -> web.Response:
        body = msgspec.json.encode(describe(all_routes()))
        return web.Response(body=body, content_type="application/json")

    return (Route("GET", "/v1/openapi.json", show, "This description"),)
