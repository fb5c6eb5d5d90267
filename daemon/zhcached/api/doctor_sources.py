"""What ``doctor`` finds of the sources: their health, their tokens, their names."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from zhcache.i18n import mark
from zhcache.protocol.checks import Check
from zhcached.api.finding import Status, check
from zhcached.api.services import Services

_FAKE = ipaddress.ip_network("198.18.0.0/15")
_RESOLVE_S = 3.0
_STATES: dict[str, tuple[Status, str]] = {
    "unknown": ("ok", mark("{endpoint}: not measured yet")),
    "ok": ("ok", mark("{endpoint}: ok")),
    "slow": ("warn", mark("{endpoint}: slow")),
    "limited": ("warn", mark("{endpoint}: asks to be left alone for a while")),
    "down": ("bad", mark("{endpoint}: does not answer")),
    "lying": ("bad", mark("{endpoint}: sent bytes that are not what it promised")),
}


def sources(services: Services) -> Iterator[Check]:
    """Yields what is to be said of them all."""
    yield from _health(services)
    yield from _tokens(services)
    yield from _names(services)


def _health(services: Services) -> Iterator[Check]:
    for source in services.prefetcher.health.report():
        status, text = _STATES[source.state]
        # The first reason says what is measured; what else there is to say is a fault.
        if status == "ok" and len(source.reasons) > 1:
            status = "warn"
        fix = mark("other sources are used meanwhile; `zhcache sources` shows more")
        told = check(
            f"source {source.name}",
            status,
            text,
            "" if status == "ok" else fix,
            endpoint=source.endpoint,
        )
        if status != "ok":
            told.detail += f"; {source.reason}"
            told.said += source.reasons
        yield told


def _tokens(services: Services) -> Iterator[Check]:
    text = mark("{variable} is not set: gated repositories cannot be fetched")
    for source in services.config.sources:
        if source.token_env and not os.environ.get(source.token_env):
            yield check(f"token of {source.name}", "ok", text, variable=source.token_env)


def _names(services: Services) -> Iterator[Check]:
    """Finds a proxy that answers every name with an address of its own (Clash's fake-ip mode)."""
    for source in services.config.sources:
        host = urlsplit(source.endpoint).hostname or ""
        if source.kind == "folder" or not any(char.isalpha() for char in host):
            continue
        address = _resolved(host)
        if address is None:
            yield check(
                f"name {host}",
                "bad",
                mark("it cannot be resolved"),
                mark("check the network and the name server"),
            )
        elif address in _FAKE:
            yield check(
                f"name {host}",
                "warn",
                mark("it resolves to {address}, which a local proxy made up"),
                mark(
                    "the hub's data hosts will be refused: let the proxy give real addresses for "
                    "them, or name them in the source's data_origins"
                ),
                address=address,
            )


def _resolved(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError):
            found.append(str(socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)[0][4][0]))

    # getaddrinfo has no deadline of its own, and a dead name server must not hang the doctor.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_RESOLVE_S)
    return ipaddress.ip_address(found[0].partition("%")[0]) if found else None
