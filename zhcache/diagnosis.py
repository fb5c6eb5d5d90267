"""What ``doctor`` looks at from the client's side: this environment, this user, the way there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from zhcache import __version__
from zhcache.client import Client
from zhcache.errors import ZhcacheError, fill
from zhcache.evaluate.installed import LIBRARIES
from zhcache.i18n import mark, translate
from zhcache.protocol.checks import Check
from zhcache.protocol.messages import SourceInfo, Version
from zhcache.spawn import INSTALL, missing_parts

Status = Literal["ok", "warn", "bad"]
_OPTIMIZED_WITH = ("jieba", "opencc")
# Some judges read with sentencepiece.
_MEASURED_WITH = (*LIBRARIES, "sentencepiece")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True)
class Finding:
    """What was looked at and how it is, as templates for the reader's language.

    Attributes:
        heard: The daemon's finding that this is; it has phrases of its own.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""
    values: Mapping[str, object] = field(default_factory=dict[str, object])
    heard: Check | None = None

    def said(self) -> str:
        """Returns how it is, in the reader's language."""
        if self.heard is not None and self.heard.said:
            return "; ".join(translate(each.template, **each.values) for each in self.heard.said)
        return translate(self.detail, **self.values)

    def mend(self) -> str:
        """Returns what to do about it, in the reader's language; empty where nothing is."""
        if self.heard is not None and self.heard.mend is not None:
            return translate(self.heard.mend.template, **self.heard.mend.values)
        return translate(self.fix, **self.values)

    def check(self) -> Check:
        """Returns the finding as it goes into JSON, in English."""
        return self.heard or Check(
            name=self.name,
            status=self.status,
            detail=fill(self.detail, self.values),
            fix=fill(self.fix, self.values),
        )


def examine(client: Client, environ: Mapping[str, str] | None = None) -> list[Finding]:
    """Returns the findings of this side, then the daemon's own."""
    env = os.environ if environ is None else environ
    found = [_python(), *_packages(), *_extras(), *_caches(env, client.home)]
    try:
        answers = client.connect()
    except ZhcacheError as error:
        found.append(Finding("daemon", "bad", error.template, error.hint_template, error.values))
        found += _daemon_parts()
        return found
    found += _daemon(client, answers, env)
    try:
        found += [*_endpoint(env, client.sources()), *_foreign(client)]
    except ZhcacheError as error:
        found.append(Finding("daemon", "bad", error.template, error.hint_template, error.values))
    return found


def _python() -> Finding:
    return Finding(
        "python",
        "ok",
        mark("Python {python} at {path}, zhcache {version}"),
        values={
            "python": sys.version.split()[0],
            "path": sys.executable,
            "version": __version__,
        },
    )


def _packages() -> Iterator[Finding]:
    if _installed("urllib3-future"):
        yield Finding(
            "urllib3-future",
            "bad",
            mark("urllib3-future has replaced urllib3, and modelscope cannot download with it"),
            mark("pip uninstall niquests urllib3-future && pip install --force-reinstall urllib3"),
        )


def _extras() -> Iterator[Finding]:
    if lacking := [name for name in _OPTIMIZED_WITH if find_spec(name) is None]:
        yield Finding(
            "prompts",
            "ok",
            mark(
                "{missing} not found: prompts cannot be optimized, until pip install"
                " 'zhcache[chinese]' in this environment"
            ),
            values={"missing": ", ".join(lacking)},
        )
    if lacking := [name for name in _MEASURED_WITH if find_spec(name) is None]:
        yield Finding(
            "eval",
            "ok",
            mark(
                "{missing} not found: `zhcache eval` cannot use all that measures pictures, until"
                " pip install 'zhcache[eval]' in this environment"
            ),
            values={"missing": ", ".join(lacking)},
        )


def _caches(env: Mapping[str, str], home: Path) -> Iterator[Finding]:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        place = env.get(name)
        if place and Path(place).expanduser().absolute() != home / "hub":
            yield Finding(
                "hf-cache",
                "warn",
                mark("{name} points at {place}: tools that read it do not see this store"),
                mark("export {name}={hub}, or `zhcache import {place}`"),
                {"name": name, "place": place, "hub": home / "hub"},
            )
    used = [name for name in _PROXIES if env.get(name)]
    if used:
        yield Finding(
            "proxy",
            "warn",
            mark("{name} is set; the daemon uses no proxy"),
            mark("configure a mirror that is reached directly"),
            {"name": used[0]},
        )


def _daemon_parts() -> Iterator[Finding]:
    if lacking := missing_parts():
        yield Finding(
            "daemon-parts",
            "warn",
            mark("this environment cannot start a daemon: {missing} is not installed"),
            INSTALL,
            {"missing": ", ".join(lacking)},
        )


def _daemon(client: Client, answers: Version, env: Mapping[str, str]) -> Iterator[Finding]:
    values = {
        "version": answers.version,
        "mine": __version__,
        "pid": answers.pid,
        "uid": answers.uid,
        "socket": client.socket,
        "home": answers.home,
        "wanted": env.get("ZHCACHE_HOME", ""),
    }
    text = mark("zhcached {version}, process {pid} of user {uid}, answers at {socket}")
    yield Finding("daemon", "ok", text, values=values)
    if answers.version != __version__:
        yield Finding(
            "version",
            "warn",
            mark("the daemon is zhcache {version}, this client {mine}"),
            mark("zhcache daemon stop; zhcache daemon start"),
            values,
        )
    wanted = env.get("ZHCACHE_HOME")
    if wanted and Path(wanted).expanduser().absolute() != Path(answers.home):
        yield Finding(
            "home",
            "warn",
            mark("ZHCACHE_HOME is {wanted}, but the daemon that answers keeps {home}"),
            mark("set ZHCACHE_SOCKET to the socket of the daemon you mean"),
            values,
        )


def _endpoint(env: Mapping[str, str], sources: Sequence[SourceInfo]) -> Iterator[Finding]:
    endpoint = env.get("HF_ENDPOINT", "").strip().rstrip("/")
    if endpoint and all(source.endpoint.rstrip("/") != endpoint for source in sources):
        yield Finding(
            "hf-endpoint",
            "warn",
            mark("HF_ENDPOINT is {endpoint} here, which is none of the daemon's sources"),
            mark("restart the daemon from this environment, or add it as a [[source]]"),
            {"endpoint": endpoint},
        )


def _foreign(client: Client) -> Iterator[Finding]:
    for check in client.doctor().checks:
        yield Finding(check.name, check.status, check.detail, check.fix, heard=check)


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
