"""The configured sources, made ready to ask."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zhcache.protocol.names import RepoId, Revision
from zhcached.clock import Clock
from zhcached.config import SourceConfig
from zhcached.config.buckets import bucket_endpoint
from zhcached.errors import RepoUnavailable
from zhcached.sources.alias import HubNames, names_at
from zhcached.sources.base import Resolution, Source
from zhcached.sources.folder import FolderSource
from zhcached.sources.huggingface import HuggingFaceSource
from zhcached.sources.modelscope import ModelScopeSource
from zhcached.sources.peer import PeerSource
from zhcached.sources.s3 import S3Source
from zhcached.sources.tokens import TokenSource
from zhcached.transport.address import Origin
from zhcached.transport.http import Transport


def build(
    configs: Sequence[SourceConfig],
    transport: Transport,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> list[Source]:
    """Returns one source for each entry that lists repositories, in order.

    Tokens are not read here but at each call.

    Raises:
        AddressRefused: An endpoint is not a plain http(s) address.
    """
    env = os.environ if environ is None else environ
    return [_one(config, transport, env, clock) for config in configs if config.kind != "s3"]


def tiers(
    configs: Sequence[SourceConfig],
    transport: Transport,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> list[S3Source]:
    """Returns one tier for each entry that has bytes alone, in order.

    Raises:
        UsageError: What one needs is not installed.
        AddressRefused: An endpoint is not a plain http(s) address.
    """
    env = os.environ if environ is None else environ
    stores = [config for config in configs if config.kind == "s3"]
    return [S3Source(one, transport=transport, environ=env, clock=clock) for one in stores]


def configured_origins(configs: Iterable[SourceConfig]) -> frozenset[Origin]:
    """Returns the origins the configuration names, which alone may be plain or local.

    Raises:
        AddressRefused: One of them is not a plain http(s) address.
    """
    return frozenset(
        Origin.parse(url)
        for config in configs
        if config.kind != "folder"
        for url in (bucket_endpoint(config), *config.data_origins)
    )


def configured_folders(configs: Iterable[SourceConfig]) -> tuple[Path, ...]:
    """Returns the folders the configuration names as sources, which alone may be read."""
    return tuple(Path(config.endpoint) for config in configs if config.kind == "folder")


def resolve_by_any_name(
    source: Source,
    repo: RepoId,
    revision: Revision | None,
    deadline_s: float,
    aliases: Mapping[str, HubNames] | None = None,
) -> Resolution:
    """Returns what ``source`` says ``repo`` is, under the first of its names that is there.

    The deadline holds for each name.

    Raises:
        RepoUnavailable: It answered no to every name; the last no, about the name itself, unless
            an earlier one was more than "not found".
        TransportError: As ``Source.resolve``; not tried under other names.
        StatusError: As above.
        RemoteInvalid: As above.
        AddressRefused: As above.
    """
    refusals: list[RepoUnavailable] = []
    for name in names_at(repo, source.kind, aliases):
        try:
            return source.resolve(name, revision, deadline_s)
        except RepoUnavailable as refusal:
            refusals.append(refusal)
    telling = [r for r in refusals if r.error.code != "not_found"]
    raise (telling or refusals)[-1]


def _one(
    config: SourceConfig, transport: Transport, environ: Mapping[str, str], clock: Clock | None
) -> Source:
    if config.kind == "folder":
        return FolderSource(config.name, Path(config.endpoint))
    kinds = {"huggingface": HuggingFaceSource, "modelscope": ModelScopeSource, "peer": PeerSource}
    tokens = TokenSource(config.name, Origin.parse(config.endpoint), config.token_env, environ)
    return kinds[config.kind](
        config.name, config.endpoint, transport=transport, tokens=tokens, clock=clock
    )
