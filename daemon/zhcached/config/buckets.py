"""What a source of kind ``s3`` may say of its bucket, and which keys are for no other kind."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from zhcache.errors import UsageError
from zhcache.protocol.names import parse_repo
from zhcached.config.tables import SourceConfig

_BUCKET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){1,61}[A-Za-z0-9]")
# As a part of a host's name: a dot would make it a name that the store's certificate is not for.
_HOST_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_OWN_KEYS = (
    "bucket",
    "prefix",
    "region",
    "style",
    "key_env",
    "secret_env",
    "write",
    "entitled",
)


def fault_of_bucket(source: SourceConfig) -> str | None:
    """Returns why a source's bucket cannot be meant, or None."""
    if source.kind != "s3":
        plain = SourceConfig(source.name, source.kind, source.endpoint)
        given = [key for key in _OWN_KEYS if getattr(source, key) != getattr(plain, key)]
        return f"{given[0]} is for kind s3 alone" if given else None
    if source.token_env:
        return "kind s3 takes key_env and secret_env in place of token_env"
    if urlsplit(source.endpoint).path not in ("", "/"):
        return "the endpoint of kind s3 has no path; the bucket and prefix have keys of their own"
    return _fault_of_names(source) or _fault_of_keys(source)


def _fault_of_names(source: SourceConfig) -> str | None:
    if not _BUCKET.fullmatch(source.bucket):
        return f"bucket {source.bucket!r} is no bucket's name" if source.bucket else "has no bucket"
    if source.style == "host" and ("[" in source.endpoint or not _is_label(source.bucket)):
        return f"bucket {source.bucket!r} cannot stand before a host's name"
    if source.prefix and not _PREFIX.fullmatch(source.prefix):
        return f'prefix {source.prefix!r} is not as "models/zhcache"'
    if not _REGION.fullmatch(source.region):
        return f"region {source.region!r} is no region's name"
    return None


def _is_label(bucket: str) -> bool:
    return bool(_HOST_BUCKET.fullmatch(bucket))


def _fault_of_keys(source: SourceConfig) -> str | None:
    if bool(source.key_env) != bool(source.secret_env):
        return "key_env and secret_env are given together"
    if source.write and not source.key_env:
        return "write = true needs key_env and secret_env"
    if source.entitled and not source.write:
        return "entitled says what is put there, and write is false"
    try:
        for repo in source.entitled:
            parse_repo(repo)
    except UsageError as error:
        return error.message
    return None


def bucket_endpoint(source: SourceConfig) -> str:
    """Returns the address under which the bucket's own paths begin: with or without its name. Pure.

    Of style ``host`` that is another host, and so another origin.
    """
    endpoint = source.endpoint.rstrip("/")
    if source.style == "path":
        return endpoint
    scheme, _, place = endpoint.partition("://")
    return f"{scheme}://{source.bucket}.{place}"
