"""A client that hides nothing: http.client, one request, what came and how it ended."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from demohub import Hub


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    is_whole: bool


Ask = Callable[..., Reply]


def _ask(
    hub: Hub, target: str, *, method: str = "GET", timeout: float = 5, **headers: str
) -> Reply:
    connection = http.client.HTTPConnection(hub.host, hub.port, timeout=timeout)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, target, headers=named)
        response = connection.getresponse()
        body, is_whole = b"", True
        try:
            while chunk := response.read1(1 << 16):
                body += chunk
        except (OSError, http.client.IncompleteRead):
            is_whole = False
        expected = response.headers.get("Content-Length")
        if method != "HEAD" and expected is not None and len(body) < int(expected):
            is_whole = False
        return Reply(response.status, response.headers, body, is_whole)
    finally:
        connection.close()


@pytest.fixture
def ask() -> Ask:
    """``ask(hub, target, method=..., Range=...)`` gives a ``Reply``."""
    return _ask
