"""Reading: files are TOML, later ones override earlier ones table by table.

``[[source]]`` lists replace each other whole. An unknown key is an error that names it: a misspelt
limit must not be silently absent.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from zhcache.protocol.names import parse_repo
from zhcached.config.check import check_mirror, check_recipes, check_sources, refuse
from zhcached.config.measures import in_units
from zhcached.config.swarming import fault_of_swarm
from zhcached.config.tables import (
    DEFAULT_SOURCES,
    ChineseConfig,
    Config,
    ConvertConfig,
    DownloadConfig,
    FollowConfig,
    RecipeConfig,
    ResidencyConfig,
    ServeConfig,
    SourceConfig,
    StoreConfig,
    SwarmConfig,
    WatchConfig,
)


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
        refuse(str(path), str(error))


def _build(tables: dict[str, Any], where: str, env: Mapping[str, str]) -> Config:
    known = {
        "store",
        "source",
        "alias",
        "download",
        "residency",
        "recipe",
        "convert",
        "serve",
        "swarm",
        "follow",
        "watch",
        "chinese",
    }
    if unknown := sorted(set(tables) - known):
        refuse(where, f"unknown table [{unknown[0]}]")
    try:
        sources = msgspec.convert(tables.get("source", []), tuple[SourceConfig, ...], strict=False)
        config = Config(
            store=msgspec.convert(in_units(tables, "store"), StoreConfig),
            sources=sources or _default_sources(env),
            alias=msgspec.convert(tables.get("alias", {}), dict[str, dict[str, str]]),
            download=msgspec.convert(in_units(tables, "download"), DownloadConfig),
            residency=msgspec.convert(in_units(tables, "residency"), ResidencyConfig),
            recipe=msgspec.convert(tables.get("recipe", {}), dict[str, RecipeConfig]),
            convert=msgspec.convert(tables.get("convert", {}), ConvertConfig),
            serve=msgspec.convert(in_units(tables, "serve"), ServeConfig),
            swarm=msgspec.convert(in_units(tables, "swarm"), SwarmConfig),
            follow=msgspec.convert(in_units(tables, "follow"), FollowConfig),
            watch=msgspec.convert(in_units(tables, "watch"), WatchConfig),
            chinese=msgspec.convert(tables.get("chinese", {}), ChineseConfig),
        )
        for name in (config.chinese.translator, *_encoder_repos(config.chinese)):
            parse_repo(name)
        for name, by_kind in config.alias.items():
            for target in (name, *by_kind.values()):
                parse_repo(target)
    except (msgspec.ValidationError, ValueError) as error:
        refuse(where, str(error))
    check_sources(config.sources, where)
    if not 1 <= config.download.connections <= 64 or not 1 <= config.download.files <= 32:
        refuse(where, "download.connections is 1 to 64, download.files 1 to 32")
    if not 1 <= config.residency.workers <= 64:
        refuse(where, "residency.workers is 1 to 64")
    check_recipes(config, where)
    check_mirror(config, where)
    if fault := fault_of_swarm(config.swarm, config.sources):
        refuse(where, fault)
    return config


def _encoder_repos(chinese: ChineseConfig) -> Iterator[str]:
    for entry in chinese.encoder:
        yield from (entry.repo, *entry.base)


def _default_sources(env: Mapping[str, str]) -> tuple[SourceConfig, ...]:
    endpoint = env.get("HF_ENDPOINT", "").strip().rstrip("/")
    if not endpoint:
        return DEFAULT_SOURCES
    first = SourceConfig("hf-endpoint", "huggingface", endpoint)
    rest = [s for s in DEFAULT_SOURCES[1:] if s.endpoint != endpoint]
    if endpoint == "https://huggingface.co":
        first = msgspec.structs.replace(first, token_env="HF_TOKEN")
    return (first, *rest)
