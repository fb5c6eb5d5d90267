"""What could be wrong on the daemon's side, each line with its mend."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import resource
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from zhcache.errors import ZhcacheError
from zhcache.protocol.messages import Check, Checks
from zhcached.api.route import Call, Route
from zhcached.api.services import Services
from zhcached.convert.recipe import PACKAGES

_SQLITE_SOUND = (3, 51, 3)
_MIN_FILES = 4096
_FAKE = ipaddress.ip_network("198.18.0.0/15")
_RESOLVE_S = 3.0
FAILS_LONG = 3
"""How often a followed model fails, one time after the other, before it is told."""
_WORKERS_NEED = ("torch", "diffusers", "transformers")
_READ_WITH = {"sentencepiece": "translators", "opencc": "traditional characters"}


async def show(call: Call) -> Checks:
    """Runs every check."""
    return Checks(checks=await asyncio.to_thread(lambda: list(_checks(call.services))))


def _checks(services: Services) -> Iterator[Check]:
    yield _user()
    yield _space(services)
    yield _index()
    yield from _damage(services)
    yield from _strangers(services)
    yield from _watched(services)
    yield _descriptors()
    yield from _workers(services)
    yield from _sources(services)
    yield from followed(services)
    yield from _gateway(services)
    yield from _tokens(services)
    yield from _names(services)


def _user() -> Check:
    if os.geteuid() == 0:
        return Check(
            name="user",
            status="warn",
            detail="the daemon runs as root",
            fix="run it as its own user: systemd/ has units that do",
        )
    return Check(name="user", status="ok", detail=f"the daemon runs as uid {os.geteuid()}")


def _space(services: Services) -> Check:
    free = shutil.disk_usage(services.home).free
    floor = services.config.store.min_free
    detail = f"{free / 2**30:.1f} GiB free, {floor / 2**30:.1f} GiB are never touched"
    if free <= floor:
        return Check(
            name="space",
            status="bad",
            detail=detail,
            fix="zhcache gc frees what nothing uses; zhcache rm lets models go; "
            "or lower store.min_free",
        )
    return Check(name="space", status="ok", detail=detail)


def _index() -> Check:
    if sqlite3.sqlite_version_info < _SQLITE_SOUND:
        return Check(
            name="sqlite",
            status="ok",
            detail=f"SQLite {sqlite3.sqlite_version}; older than 3.51.3, whose WAL reset fault "
            "needs two writers: the daemon has one",
        )
    return Check(name="sqlite", status="ok", detail=f"SQLite {sqlite3.sqlite_version}")


def _gateway(services: Services) -> Iterator[Check]:
    state = services.gateway.state()
    if state.problem:
        yield Check(
            name="gateway",
            status="bad",
            detail=f"does not serve: {state.problem}",
            fix="zhcache serve --detach once that is mended, or zhcache serve --stop",
        )
    if not state.serving:
        return
    told = (
        f"serves at {state.listen}: {state.clients} connections, {state.bytes_sent} bytes sent, "
        f"{state.pulls} files coming, {state.misses} were not here"
    )
    if state.token or state.listen.startswith(("127.", "[::1]")):
        yield Check(name="gateway", status="ok", detail=told)
        return
    yield Check(
        name="gateway",
        status="warn",
        detail=f"{told}; whoever reaches it may fetch through it",
        fix="zhcache serve --token-file FILE asks for a token",
    )


def _damage(services: Services) -> Iterator[Check]:
    for problem in services.store.problems:
        yield Check(
            name="store",
            status="bad",
            detail=problem,
            fix="zhcache repair fetches again what was lost",
        )


def _strangers(services: Services) -> Iterator[Check]:
    for finding in services.watching.guard.findings():
        yield Check(name="store", status="bad", detail=finding.message, fix=finding.hint)


def _watched(services: Services) -> Iterator[Check]:
    for problem in services.watching.problems:
        yield Check(name="watched", status="bad", detail=problem.message, fix=problem.hint)
    for folder in services.watching.all():
        name = f"watched {folder.folder}"
        if folder.reason is not None:
            info = folder.reason
            yield Check(name=name, status="bad", detail=info.message, fix=info.hint)
        elif folder.polling is not None:
            info = folder.polling
            yield Check(name=name, status="warn", detail=info.message, fix=info.hint)
        else:
            taken = sum(model.state == "taken" for model in folder.models)
            yield Check(
                name=name,
                status="ok",
                detail=f"{taken} of {len(folder.models)} models are taken in",
            )


def _descriptors() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _MIN_FILES:
        return Check(
            name="open files",
            status="warn",
            detail=f"the limit is {soft}",
            fix="raise LimitNOFILE in the unit, or ulimit -n in the shell that starts it",
        )
    return Check(name="open files", status="ok", detail=f"the limit is {soft}")


def _workers(services: Services) -> Iterator[Check]:
    try:
        found = services.launcher.abilities()
    except ZhcacheError as error:
        yield Check(name="workers", status="bad", detail=error.message, fix=error.hint)
        return
    absent = [name for name in _WORKERS_NEED if found.parts.get(name) is None]
    if absent:
        yield Check(
            name="workers",
            status="ok",
            detail=f"{', '.join(absent)} not found: no weights in VRAM, no resident pipelines and "
            "no variants, until pip install 'zhcache[daemon,torch]' in the daemon's environment",
        )
        return
    versions = [f"{name} {version}" for name, version in found.parts.items() if version]
    yield Check(name="workers", status="ok", detail=", ".join(versions))
    yield from _quantizers(found.parts)
    yield from _readers(found.parts)
    if found.lacking:
        yield Check(
            name="workers' sandbox",
            status="warn",
            detail=f"they are not kept from {'; '.join(found.lacking)}",
            fix="use a kernel with Landlock and seccomp, and leave ZHCACHE_WORKER_SANDBOX unset",
        )


def _quantizers(parts: Mapping[str, str | None]) -> Iterator[Check]:
    absent = sorted({name for name in PACKAGES.values() if parts.get(name) is None})
    if not absent:
        return
    lost = ", ".join(scheme for scheme, name in PACKAGES.items() if name in absent)
    yield Check(
        name="variants",
        status="ok",
        detail=f"{', '.join(absent)} not found: {lost} cannot be made, until "
        "pip install 'zhcache[quant]' in the daemon's environment",
    )


def _readers(parts: Mapping[str, str | None]) -> Iterator[Check]:
    absent = [name for name in _READ_WITH if parts.get(name) is None]
    if not absent:
        return
    lost = ", ".join(_READ_WITH[name] for name in absent)
    yield Check(
        name="chinese prompts",
        status="ok",
        detail=f"{', '.join(absent)} not found: {lost} cannot be used, until "
        "pip install 'zhcache[chinese]' in the daemon's environment",
    )


def _sources(services: Services) -> Iterator[Check]:
    for source in services.prefetcher.health.report():
        status = {"down": "bad", "lying": "bad", "slow": "warn", "limited": "warn"}.get(
            source.state, "ok"
        )
        # The first reason says what is measured; what else there is to say is a fault.
        if status == "ok" and len(source.reasons) > 1:
            status = "warn"
        detail = f"{source.endpoint}: {source.state}"
        if status != "ok":
            detail += f", {source.reason}"
        yield Check(
            name=f"source {source.name}",
            status=status,  # pyright: ignore[reportArgumentType]
            detail=detail,
            fix="" if status == "ok" else "other sources are used meanwhile; see zhcache sources",
        )


def followed(services: Services) -> Iterator[Check]:
    """Tells of followed models that fail for long, and of their record if it was damaged."""
    for problem in services.following.follows.ledger.problems:
        yield Check(
            name="followed models",
            status="bad",
            detail=problem,
            fix="follow them again: zhcache follow REPO; or mend that file and put it back while "
            "the daemon is stopped",
        )
    for one in services.following.all():
        if one.failures >= FAILS_LONG and one.error is not None:
            yield Check(
                name=f"followed {one.repo}",
                status="warn",
                detail=f"{one.failures} times one after the other: {one.error.message}",
                fix=one.error.hint
                or f"zhcache follow lists what is followed; zhcache unfollow {one.repo} ends it",
            )


def _tokens(services: Services) -> Iterator[Check]:
    for source in services.config.sources:
        if source.token_env and not os.environ.get(source.token_env):
            yield Check(
                name=f"token of {source.name}",
                status="ok",
                detail=f"{source.token_env} is not set: gated repositories stay closed",
            )


def _names(services: Services) -> Iterator[Check]:
    """Finds a proxy that answers every name with an address of its own (Clash's fake-ip mode)."""
    for source in services.config.sources:
        host = urlsplit(source.endpoint).hostname or ""
        if source.kind == "folder" or not any(char.isalpha() for char in host):
            continue
        address = _resolved(host)
        if address is None:
            yield Check(
                name=f"name {host}",
                status="bad",
                detail="it cannot be resolved",
                fix="check the line and the name server",
            )
        elif address in _FAKE:
            yield Check(
                name=f"name {host}",
                status="warn",
                detail=f"it resolves to {address}, which a local proxy made up",
                fix="the hub's data hosts will be refused: let the proxy give real addresses for "
                "them, or name them in the source's data_origins",
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


ROUTES = (Route("GET", "/v1/doctor", show, "Check everything", gives=Checks),)
