"""The configuration: read once, checked once, then a frozen value.

Files are TOML, later ones override earlier ones table by table; ``[[source]]`` lists replace each
other whole. Sizes and durations are written with units and become bytes and seconds here. An
unknown key is an error that names it: a misspelt limit must not be silently absent.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.conversion import SchemeName
from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import parse_repo, parse_variant
from zhcached.units import parse_duration, parse_share, parse_size

GROUP_SIZES = (16, 32, 64, 128, 256)
_BUILT_IN = frozenset(get_args(SchemeName)) - {"fp32"}

# A host, "[address]" for IPv6, a port, a path; no user, no query, nothing two parsers could read
# differently. A lone "." is no host.
_ADDRESS = re.compile(
    r"https?://(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?!\.[:/]|\.$)[A-Za-z0-9._-]+)"
    r"(?::(?P<port>[0-9]{1,5}))?(?:/(?:(?![@\\?#])[\x21-\x7e])*)?"
)


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[store]``: limits in bytes and seconds."""

    quota: int = 0
    min_free: int = 10 * 2**30
    grace: float = 3600.0
    keep_partial: float = 7 * 86400.0
    scrub: float = 30 * 86400.0
    force: bool = False


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[source]]``."""

    name: str
    kind: SourceKind
    endpoint: str
    token_env: str | None = None
    data_origins: tuple[str, ...] = ()


class DownloadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[download]``: rates in bytes per second, times in seconds."""

    connections: int = 8
    files: int = 4
    rate: int = 0
    stall: float = 30.0
    min_rate: int = 64 * 2**10
    connect_timeout: float = 10.0
    retries: int = 5


class ResidencyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[residency]``: what may stay warm.

    Attributes:
        share: Who may share one copy in VRAM.
        vram: Of each device; a number up to 1 is a fraction, above it bytes.
        ram: Of the machine, likewise.
        keep_alive: Seconds a model stays warm after its last use.
        host: How weights reach the CPU: mapped files, sealed memory, or what suits the disk.
        call_timeout: Seconds a call of a resident pipeline may run before its worker is ended.
        workers: Resident workers at once.
    """

    share: Literal["uid", "group", "off"] = "uid"
    vram: float = 0.8
    ram: float = 0.5
    keep_alive: float = 600.0
    host: Literal["auto", "files", "arenas"] = "auto"
    call_timeout: float = 3600.0
    workers: int = 8


class PartConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a component becomes: a table where the scheme's name alone does not say it.

    Attributes:
        scheme: The precision.
        group_size: Weights that share one scale, for int4.
        keep: Modules that stay wider, by dotted name or glob, besides those their class keeps.
    """

    scheme: SchemeName
    group_size: int | None = None
    keep: tuple[str, ...] = ()


class RecipeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[recipe.NAME]``: a variant that users may ask for by that name.

    Attributes:
        default: What components become that are not named.
        components: What others become, by name or glob.
    """

    default: SchemeName | PartConfig = "bf16"
    components: dict[str, SchemeName | PartConfig] = {}


class ConvertConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[convert]``: the making of variants.

    Attributes:
        workers: Components that are converted at once, in the whole daemon.
        auto: The variants that every prefetch of a repository makes besides those asked for.
    """

    workers: int = 2
    auto: dict[str, tuple[str, ...]] = {}


class Config(msgspec.Struct, frozen=True):
    """All of it. ``origins`` says which file each part came from, for ``doctor``."""

    store: StoreConfig = StoreConfig()
    sources: tuple[SourceConfig, ...] = ()
    alias: dict[str, dict[str, str]] = {}
    download: DownloadConfig = DownloadConfig()
    residency: ResidencyConfig = ResidencyConfig()
    recipe: dict[str, RecipeConfig] = {}
    convert: ConvertConfig = ConvertConfig()
    files: tuple[str, ...] = ()


DEFAULT_SOURCES = (
    SourceConfig("hf-mirror", "huggingface", "https://hf-mirror.com"),
    SourceConfig("modelscope", "modelscope", "https://modelscope.cn"),
    SourceConfig("huggingface", "huggingface", "https://huggingface.co", token_env="HF_TOKEN"),
)

_SIZES = {("store", "quota"), ("store", "min_free"), ("download", "rate"), ("download", "min_rate")}
_TIMES = {
    ("store", "grace"),
    ("store", "keep_partial"),
    ("store", "scrub"),
    ("download", "stall"),
    ("download", "connect_timeout"),
    ("residency", "keep_alive"),
    ("residency", "call_timeout"),
}
_SHARES = {("residency", "vram"), ("residency", "ram")}
# Tables of parts that other pieces of zhcache read; present in one shared file.
_FOREIGN = {"gateway", "watch", "follow", "chinese"}


def load(paths: Sequence[Path], environ: Mapping[str, str] | None = None) -> Config:
    """Reads ``paths`` in order and returns the configuration they make together.

    Raises:
        UsageError: A file is not TOML, has an unknown key, or a value that cannot be meant; the
            message names file and key.
    """
    env = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    used: list[str] = []
    for path in paths:
        tables = _read(path)
        if tables is None:
            continue
        used.append(str(path))
        for name, table in tables.items():
            both_tables = isinstance(table, dict) and isinstance(merged.get(name), dict)
            merged[name] = {**merged[name], **table} if both_tables else table
    where = ", ".join(used) or "the configuration"
    return msgspec.structs.replace(_build(merged, where, env), files=tuple(used))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        _refuse(str(path), str(error))


def _build(tables: dict[str, Any], where: str, env: Mapping[str, str]) -> Config:
    known = {"store", "source", "alias", "download", "residency", "recipe", "convert"} | _FOREIGN
    if unknown := sorted(set(tables) - known):
        _refuse(where, f"unknown table [{unknown[0]}]")
    try:
        sources = msgspec.convert(tables.get("source", []), tuple[SourceConfig, ...], strict=False)
        config = Config(
            store=msgspec.convert(_units(tables, "store"), StoreConfig),
            sources=sources or _default_sources(env),
            alias=msgspec.convert(tables.get("alias", {}), dict[str, dict[str, str]]),
            download=msgspec.convert(_units(tables, "download"), DownloadConfig),
            residency=msgspec.convert(_units(tables, "residency"), ResidencyConfig),
            recipe=msgspec.convert(tables.get("recipe", {}), dict[str, RecipeConfig]),
            convert=msgspec.convert(tables.get("convert", {}), ConvertConfig),
        )
        for name, by_kind in config.alias.items():
            for target in (name, *by_kind.values()):
                parse_repo(target)
    except (msgspec.ValidationError, ValueError) as error:
        _refuse(where, str(error))
    _check_sources(config.sources, where)
    if not 1 <= config.download.connections <= 64 or not 1 <= config.download.files <= 32:
        _refuse(where, "download.connections is 1 to 64, download.files 1 to 32")
    if not 1 <= config.residency.workers <= 64:
        _refuse(where, "residency.workers is 1 to 64")
    _check_recipes(config, where)
    return config


def _check_recipes(config: Config, where: str) -> None:
    if not 1 <= config.convert.workers <= 64:
        _refuse(where, "convert.workers is 1 to 64")
    try:
        for name in config.recipe:
            parse_variant(name)
        for repo in config.convert.auto:
            parse_repo(repo)
    except UsageError as error:
        _refuse(where, error.message)
    for name, recipe in config.recipe.items():
        if name in _BUILT_IN:
            _refuse(where, f"recipe.{name}: there is a variant of that name already")
        for part in (recipe.default, *recipe.components.values()):
            if isinstance(part, PartConfig) and part.group_size is not None:
                _check_group(name, part, where)
    for repo, names in config.convert.auto.items():
        for name in names:
            if name not in config.recipe and name not in _BUILT_IN:
                _refuse(where, f"convert.auto: {repo} is to have {name}, which no recipe makes")


def _check_group(name: str, part: PartConfig, where: str) -> None:
    if part.scheme != "int4":
        _refuse(where, f"recipe.{name}: group_size is for int4 alone")
    if part.group_size not in GROUP_SIZES:
        sizes = ", ".join(str(size) for size in GROUP_SIZES)
        _refuse(where, f"recipe.{name}: group_size is one of {sizes}")


def _units(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"[{name}] is not a table")  # noqa: TRY004 - one kind for all of _build
    converted: dict[str, Any] = {}
    for key, value in table.items():  # pyright: ignore[reportUnknownVariableType]
        if (name, key) in _SIZES:
            converted[key] = parse_size(value)
        elif (name, key) in _TIMES:
            converted[key] = parse_duration(value)
        elif (name, key) in _SHARES:
            converted[key] = parse_share(value)
        else:
            converted[key] = value
    return converted


def _default_sources(env: Mapping[str, str]) -> tuple[SourceConfig, ...]:
    endpoint = env.get("HF_ENDPOINT", "").strip().rstrip("/")
    if not endpoint:
        return DEFAULT_SOURCES
    first = SourceConfig("hf-endpoint", "huggingface", endpoint)
    rest = [s for s in DEFAULT_SOURCES[1:] if s.endpoint != endpoint]
    if endpoint == "https://huggingface.co":
        first = msgspec.structs.replace(first, token_env="HF_TOKEN")
    return (first, *rest)


def _check_sources(sources: Sequence[SourceConfig], where: str) -> None:
    seen: set[str] = set()
    for source in sources:
        if source.name in seen:
            _refuse(where, f"two sources are named {source.name}")
        seen.add(source.name)
        urls = () if source.kind == "folder" else (source.endpoint, *source.data_origins)
        for url in urls:
            if fault := _fault_of_address(url):
                _refuse(where, f"source {source.name}: {url!r} {fault}")


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


def _refuse(where: str, reason: str) -> NoReturn:
    raise UsageError(
        "the configuration in {where} cannot be used: {reason}",
        hint="mend it; README.md lists every key",
        where=where,
        reason=reason,
    )
