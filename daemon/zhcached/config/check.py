"""What the values of the configuration may be, beyond their types."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NoReturn, get_args

from zhcache.errors import UsageError
from zhcache.protocol.conversion import SchemeName
from zhcache.protocol.names import parse_repo, parse_variant
from zhcached.config.buckets import fault_of_bucket
from zhcached.config.tables import Config, PartConfig, SourceConfig

GROUP_SIZES = (16, 32, 64, 128, 256)
_TIME_OF_DAY = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00")
BUILT_IN = frozenset(get_args(SchemeName)) - {"fp32"}

# A host, "[address]" for IPv6, a port, a path; no user, no query, nothing two parsers could read
# differently. A lone "." is no host.
_ADDRESS = re.compile(
    r"https?://(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?!\.[:/]|\.$)[A-Za-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/(?:(?![@\\?#])[\x21-\x7e])*)?"
)


def check_recipes(config: Config, where: str) -> None:
    """Checks ``[recipe.NAME]`` and ``[convert]``.

    Raises:
        UsageError: A recipe or a name cannot be meant.
    """
    if not 1 <= config.convert.workers <= 64:
        refuse(where, "convert.workers is 1 to 64")
    try:
        for name in config.recipe:
            parse_variant(name)
        for repo in config.convert.auto:
            parse_repo(repo)
    except UsageError as error:
        refuse(where, error.message)
    for name, recipe in config.recipe.items():
        if name in BUILT_IN:
            refuse(where, f"recipe.{name}: there is a variant of that name already")
        for part in (recipe.default, *recipe.components.values()):
            if isinstance(part, PartConfig) and part.group_size is not None:
                _check_group(name, part, where)
    for repo, names in config.convert.auto.items():
        for name in names:
            if name not in config.recipe and name not in BUILT_IN:
                refuse(where, f"convert.auto: {repo} is to have {name}, which no recipe makes")


def _check_group(name: str, part: PartConfig, where: str) -> None:
    if part.scheme != "int4":
        refuse(where, f"recipe.{name}: group_size is for int4 alone")
    if part.group_size not in GROUP_SIZES:
        sizes = ", ".join(str(size) for size in GROUP_SIZES)
        refuse(where, f"recipe.{name}: group_size is one of {sizes}")


def check_sources(sources: Sequence[SourceConfig], where: str) -> None:
    """Checks ``[[source]]``: names and addresses.

    Raises:
        UsageError: Two have one name, or an address is none.
    """
    seen: set[str] = set()
    for source in sources:
        if source.name in seen:
            refuse(where, f"two sources are named {source.name}")
        seen.add(source.name)
        if source.kind == "folder" and not source.endpoint.startswith("/"):
            refuse(where, f"source {source.name}: {source.endpoint!r} is not an absolute path")
        urls = () if source.kind == "folder" else (source.endpoint, *source.data_origins)
        for url in urls:
            if fault := _fault_of_address(url):
                refuse(where, f"source {source.name}: {url!r} {fault}")
        if fault := fault_of_bucket(source):
            refuse(where, f"source {source.name}: {fault}")


def _fault_of_address(url: str) -> str | None:
    """Returns why ``url`` is no address of a source, or None; never laxer than the transport."""
    found = _ADDRESS.fullmatch(url)
    if found is None:
        return "is not an http(s) address"
    if found["port"] and not 0 < int(found["port"]) < 65536:
        return "names a port outside 1 to 65535"
    try:
        if found["six"]:
            ipaddress.IPv6Address(found["six"])
    except ValueError as error:
        return f"names no IPv6 address: {error}"
    return None


def check_mirror(config: Config, where: str) -> None:
    """Checks ``[serve]``, ``[follow]``, ``[watch]`` and ``download.windows``.

    Raises:
        UsageError: A value cannot be meant.
    """
    serve, follow, watch = config.serve, config.follow, config.watch
    if bool(serve.certificate) != bool(serve.key):
        refuse(where, "serve.certificate and serve.key are given together")
    if serve.clients < 1 or min(serve.requests, serve.questions) < 0:
        refuse(where, "serve.clients is 1 or more, serve.requests and serve.questions 0 or more")
    if follow.every < 1 or not 0 <= follow.jitter <= 1 or follow.keep < 0:
        refuse(where, "follow.every is 1s or more, follow.jitter 0 to 1, follow.keep 0 or more")
    times = follow.hours.split("-") if follow.hours else []
    if len(times) not in (0, 2):
        refuse(where, 'follow.hours is a span of the day such as "22:00-07:00"')
    check_times(times, "follow.hours", where)
    for window in config.download.windows:
        check_times([window.begin, window.end], "download.windows", where)
    for folder in watch.folders:
        if not folder.startswith("/"):
            refuse(where, f"watch.folders: {folder!r} is not an absolute path")
    try:
        for repo in serve.entitled:
            parse_repo(repo)
    except UsageError as error:
        refuse(where, error.message)


def check_times(times: Sequence[str], key: str, where: str) -> None:
    """Checks times of day such as ``07:30``.

    Raises:
        UsageError: One is none.
    """
    for text in times:
        if not _TIME_OF_DAY.fullmatch(text.strip()):
            refuse(where, f'{key}: {text!r} is not a time of day such as "07:30"')


def refuse(where: str, reason: str) -> NoReturn:
    """Raises UsageError that names the files and what is wrong in them."""
    raise UsageError(
        "the configuration in {where} cannot be used: {reason}",
        hint="mend it; docs/reference.md lists every key",
        where=where,
        reason=reason,
    )
