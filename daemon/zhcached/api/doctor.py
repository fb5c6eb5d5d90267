"""What could be wrong on the daemon's side, each finding with what to do about it.

Texts are templates, so that the client can show them in the reader's language.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator, Mapping

from zhcache.errors import ZhcacheError, fill
from zhcache.i18n import mark
from zhcache.protocol.checks import Check, Checks
from zhcache.protocol.sources import Phrase
from zhcached.api.doctor_sources import sources
from zhcached.api.finding import check, from_error
from zhcached.api.route import Call, Route
from zhcached.api.services import Services
from zhcached.convert.recipe import PACKAGES

_SQLITE_SOUND = (3, 51, 3)
_MIN_FILES = 4096
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
    yield from sources(services)
    yield from followed(services)
    yield from _gateway(services)


def _user() -> Check:
    if os.geteuid() == 0:
        return check(
            "user",
            "warn",
            mark("the daemon runs as root"),
            mark("run it as a user of its own; the units in systemd/ do that"),
        )
    return check("user", "ok", mark("the daemon runs as uid {uid}"), uid=os.geteuid())


def _space(services: Services) -> Check:
    free = shutil.disk_usage(services.home).free
    floor = services.config.store.min_free
    return check(
        "space",
        "bad" if free <= floor else "ok",
        mark("{free} GiB free; {floor} GiB of it are always left free"),
        mark(
            "`zhcache gc` frees what nothing uses, `zhcache rm` removes models; "
            "or lower store.min_free"
        )
        if free <= floor
        else "",
        free=f"{free / 2**30:.1f}",
        floor=f"{floor / 2**30:.1f}",
    )


def _index() -> Check:
    if sqlite3.sqlite_version_info < _SQLITE_SOUND:
        text = mark(
            "SQLite {version}; versions before 3.51.3 can damage a database that has two writers, "
            "but here only the daemon writes"
        )
    else:
        text = mark("SQLite {version}")
    return check("sqlite", "ok", text, version=sqlite3.sqlite_version)


def _gateway(services: Services) -> Iterator[Check]:
    state = services.gateway.state()
    if state.problem:
        yield check(
            "gateway",
            "bad",
            mark("it cannot serve: {problem}"),
            mark("fix that and run `zhcache serve --detach`, or turn it off: zhcache serve --stop"),
            problem=state.problem,
        )
    if not state.serving:
        return
    open_to_all = not state.token and not state.listen.startswith(("127.", "[::1]"))
    told = mark(
        "serves at {listen}: {clients} connections, {sent} bytes sent, {pulls} files on their "
        "way, {misses} requests for what was not here"
    )
    if open_to_all:
        told = mark(
            "serves at {listen}, and whoever reaches that address may fetch through it: {clients} "
            "connections, {sent} bytes sent, {pulls} files on their way, {misses} requests for "
            "what was not here"
        )
    yield check(
        "gateway",
        "warn" if open_to_all else "ok",
        told,
        mark("`zhcache serve --token-file FILE` asks clients for a token") if open_to_all else "",
        listen=state.listen,
        clients=state.clients,
        sent=state.bytes_sent,
        pulls=state.pulls,
        misses=state.misses,
    )


def _damage(services: Services) -> Iterator[Check]:
    fix = mark("`zhcache repair` fetches again what was lost")
    for problem in services.store.problems:
        yield check("store", "bad", problem, fix)


def _strangers(services: Services) -> Iterator[Check]:
    for finding in services.watching.guard.findings():
        yield from_error("store", "bad", finding)


def _watched(services: Services) -> Iterator[Check]:
    for problem in services.watching.problems:
        yield from_error("watched", "bad", problem)
    for folder in services.watching.all():
        name = f"watched {folder.folder}"
        if folder.reason is not None:
            yield from_error(name, "bad", folder.reason)
        elif folder.polling is not None:
            yield from_error(name, "warn", folder.polling)
        else:
            taken = sum(model.state == "taken" for model in folder.models)
            text = mark("{taken} of {models} models have been taken in")
            yield check(name, "ok", text, taken=taken, models=len(folder.models))


def _descriptors() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and soft < _MIN_FILES
    return check(
        "open files",
        "warn" if few else "ok",
        mark("the daemon may open {limit} files at once"),
        mark("raise LimitNOFILE in the unit, or ulimit -n in the shell that starts the daemon")
        if few
        else "",
        limit=soft,
    )


def _workers(services: Services) -> Iterator[Check]:
    try:
        found = services.launcher.abilities()
    except ZhcacheError as error:
        yield from_error("workers", "bad", error)
        return
    absent = [name for name in _WORKERS_NEED if found.parts.get(name) is None]
    if absent:
        text = mark(
            "{absent} not found: no weights in VRAM, no resident pipelines and no variants, until "
            "pip install 'zhcache[daemon,torch]' in the daemon's environment"
        )
        yield check("workers", "ok", text, absent=", ".join(absent))
        return
    versions = [f"{name} {version}" for name, version in found.parts.items() if version]
    yield check("workers", "ok", ", ".join(versions))
    yield from _quantizers(found.parts)
    yield from _readers(found.parts)
    if found.lacking:
        yield check(
            "workers' sandbox",
            "warn",
            mark("workers are not kept from: {lacking}"),
            mark("use a kernel with Landlock and seccomp, and leave ZHCACHE_WORKER_SANDBOX unset"),
            lacking="; ".join(found.lacking),
        )


def _quantizers(parts: Mapping[str, str | None]) -> Iterator[Check]:
    absent = sorted({name for name in PACKAGES.values() if parts.get(name) is None})
    if not absent:
        return
    lost = ", ".join(scheme for scheme, name in PACKAGES.items() if name in absent)
    text = mark(
        "{absent} not found: {lost} cannot be made, until "
        "pip install 'zhcache[quant]' in the daemon's environment"
    )
    yield check("variants", "ok", text, absent=", ".join(absent), lost=lost)


def _readers(parts: Mapping[str, str | None]) -> Iterator[Check]:
    absent = [name for name in _READ_WITH if parts.get(name) is None]
    if not absent:
        return
    lost = ", ".join(_READ_WITH[name] for name in absent)
    text = mark(
        "{absent} not found: {lost} cannot be used, until "
        "pip install 'zhcache[chinese]' in the daemon's environment"
    )
    yield check("chinese prompts", "ok", text, absent=", ".join(absent), lost=lost)


def followed(services: Services) -> Iterator[Check]:
    """Tells of followed models that fail for long, and of their record if it was damaged."""
    for problem in services.following.follows.ledger.problems:
        yield check(
            "followed models",
            "bad",
            problem,
            mark(
                "follow them again: zhcache follow REPO; or mend that file and put it back while "
                "the daemon is stopped"
            ),
        )
    for one in services.following.all():
        if one.failures < FAILS_LONG or one.error is None:
            continue
        told = from_error(f"followed {one.repo}", "warn", one.error)
        times = {"failures": str(one.failures)}
        text = mark("the last {failures} looks failed")
        told.said.insert(0, Phrase(template=text, values=times))
        told.detail = f"{fill(text, times)}; {told.detail}"
        if not told.fix:
            fix = mark("`zhcache follow` lists what is followed; `zhcache unfollow {repo}` ends it")
            told.mend = Phrase(template=fix, values={"repo": one.repo})
            told.fix = fill(fix, told.mend.values)
        yield told


ROUTES = (Route("GET", "/v1/doctor", show, "Check everything", gives=Checks),)
