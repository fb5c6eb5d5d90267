"""The tables of the configuration, as frozen values: sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from zhcache.protocol.conversion import SchemeName
from zhcache.protocol.messages import SourceKind


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[store]``: limits in bytes and seconds."""

    quota: int = 0
    min_free: int = 10 * 2**30
    grace: float = 3600.0
    keep_partial: float = 7 * 86400.0
    scrub: float = 30 * 86400.0
    force: bool = False


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[source]]``; what stands from ``bucket`` on is for kind ``s3`` alone.

    Attributes:
        near: It stands in this site: hubs are asked only for what it cannot tell or send. None is
            so of peers, folders, stores and a swarm, and of no others.
        bucket: Where the blobs are.
        prefix: What their names begin with, without a slash at its end.
        region: That requests are signed for.
        style: Whether the bucket's name stands in the path or before the host.
        key_env: Variable of the daemon's environment with the access key; with ``secret_env``.
        secret_env: Variable with the secret key.
        write: What is fetched here and public is put there.
        entitled: Repositories that are put there though they are not known to be public.
    """

    name: str
    kind: SourceKind
    endpoint: str
    token_env: str | None = None
    data_origins: tuple[str, ...] = ()
    near: bool | None = None
    bucket: str = ""
    prefix: str = ""
    region: str = "us-east-1"
    style: Literal["path", "host"] = "path"
    key_env: str | None = None
    secret_env: str | None = None
    write: bool = False
    entitled: tuple[str, ...] = ()

    @property
    def is_near(self) -> bool:
        """Whether it stands in this site."""
        return self.kind in ("peer", "folder", "s3", "swarm") if self.near is None else self.near


class WindowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of ``download.windows``: another rate between two times of day.

    Attributes:
        begin: Local time of day, ``"23:00"``.
        end: Likewise; before ``begin`` it is on the next day.
        rate: Bytes per second in that time, 0 for no limit.
    """

    begin: str
    end: str
    rate: int = 0


class DownloadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[download]``: rates in bytes per second, times in seconds."""

    connections: int = 8
    files: int = 4
    rate: int = 0
    stall: float = 30.0
    min_rate: int = 64 * 2**10
    connect_timeout: float = 10.0
    retries: int = 5
    windows: tuple[WindowConfig, ...] = ()


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


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[serve]``: the gateway, by which other machines use this store.

    Attributes:
        listen: Where the daemon serves from its start; empty serves only when asked to.
        token_env: Variable of the daemon's environment with the token that clients must show.
        certificate: PEM file for TLS; with ``key``.
        key: Its private key.
        rate: Bytes per second to all clients, 0 for no limit.
        clients: Connections at once.
        requests: Requests a minute of one address, 0 for no limit.
        questions: Repositories and revisions that one address may have the sources asked about in
            a minute, 0 for no limit.
        refresh: Seconds for which a branch is not asked about again.
        pull: What is not here is fetched; otherwise only what is here is served.
        pickle: Serve files that may run code when they are loaded.
        entitled: Repositories that are served though they are not known to be public.
    """

    listen: str = ""
    token_env: str = ""
    certificate: str = ""
    key: str = ""
    rate: int = 0
    clients: int = 512
    requests: int = 0
    questions: int = 120
    refresh: float = 300.0
    pull: bool = True
    pickle: bool = False
    entitled: tuple[str, ...] = ()


class SwarmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[swarm]``: a BitTorrent swarm between the machines of a site.

    Attributes:
        enabled: Torrents of public blobs are made, and told to those that have this as a peer.
        listen: The one address and port that pieces go over; without it this machine is in no
            torrent, and only tells of them.
        networks: The addresses that may take part.
        web_seed: Pieces also come from the gateways of peers that have a blob whole.
        rate: Bytes per second that are given to others, 0 for no limit.
    """

    enabled: bool = False
    listen: str = ""
    networks: tuple[str, ...] = ()
    web_seed: bool = False
    rate: int = 0


class FollowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[follow]``: models that are kept fresh.

    Attributes:
        every: Seconds between two looks at a model, where ``follow --every`` does not say.
        jitter: Share of that time by which looks are moved at random.
        keep: Earlier revisions that stay, of those that following brought.
        hours: Time of day in which followed models are fetched, ``"22:00-07:00"``; empty is any.
    """

    every: float = 21600.0
    jitter: float = 0.1
    keep: int = 1
    hours: str = ""


class WatchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[watch]``: folders that are taken in as they change.

    Attributes:
        folders: Absolute paths.
        settle: Seconds without a change after which what was dropped in counts as whole.
        poll: Seconds between two looks where the kernel tells of no changes.
    """

    folders: tuple[str, ...] = ()
    settle: float = 10.0
    poll: float = 60.0


class EncoderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ``[[chinese.encoder]]``: a text encoder that reads Chinese in another one's place.

    Attributes:
        repo: The repository with its text_encoder and tokenizer.
        base: The models that it is for; none are those of the family of Stable Diffusion 1.x.
        simplified: Whether traditional characters are made simplified before it reads them.
    """

    repo: str
    base: tuple[str, ...] = ()
    simplified: bool = True


class ChineseConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[chinese]``: who reads Chinese prompts.

    Attributes:
        translator: The translator that is taken before others.
        encoder: Encoders besides those that are known.
    """

    translator: str = "Helsinki-NLP/opus-mt-zh-en"
    encoder: tuple[EncoderConfig, ...] = ()


class Config(msgspec.Struct, frozen=True):
    """All of it. ``origins`` says which file each part came from, for ``doctor``."""

    store: StoreConfig = StoreConfig()
    sources: tuple[SourceConfig, ...] = ()
    alias: dict[str, dict[str, str]] = {}
    download: DownloadConfig = DownloadConfig()
    residency: ResidencyConfig = ResidencyConfig()
    recipe: dict[str, RecipeConfig] = {}
    convert: ConvertConfig = ConvertConfig()
    serve: ServeConfig = ServeConfig()
    swarm: SwarmConfig = SwarmConfig()
    follow: FollowConfig = FollowConfig()
    watch: WatchConfig = WatchConfig()
    chinese: ChineseConfig = ChineseConfig()
    files: tuple[str, ...] = ()


DEFAULT_SOURCES = (
    SourceConfig("hf-mirror", "huggingface", "https://hf-mirror.com"),
    SourceConfig("modelscope", "modelscope", "https://modelscope.cn"),
    SourceConfig("huggingface", "huggingface", "https://huggingface.co", token_env="HF_TOKEN"),
)
