"""One bucket: what a blob is called in it, and addresses that carry its key's signature.

obstore signs, and sends nothing: its own requests would take proxies from the environment. Its
constructor also takes what it finds there, a session's token beside a key that was given to it; so
every setting that changes a signature is given, and the key comes from a provider.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from zhcache.errors import UsageError
from zhcached.config import SourceConfig
from zhcached.config.buckets import bucket_endpoint
from zhcached.errors import AddressRefused, KeyRefused
from zhcached.transport.address import Origin

if TYPE_CHECKING:
    from obstore.store import S3Credential, S3Store

SIGNED_FOR: Final = timedelta(minutes=15)
"""Of a signed address; it counts when the request begins, and each range has one of its own."""

RETRIES: Final = 2
"""Of a request that failed in passing; who asked for it tries again much later."""


@dataclass(frozen=True, slots=True)
class Key:
    """An access key. Its text shows neither half."""

    access: str = field(repr=False)
    secret: str = field(repr=False)


class Bucket:
    """Where one source's blobs lie. Thread-safe; makes no request.

    Args:
        config: The source, of kind ``s3``.
        environ: The environment, of which two variables are read.

    Raises:
        UsageError: It has a key, and obstore is not there.
        AddressRefused: The endpoint is not a plain http(s) address.
    """

    def __init__(self, config: SourceConfig, environ: Mapping[str, str]) -> None:
        self.config = config
        self.endpoint = bucket_endpoint(config)
        self.origin = Origin.parse(self.endpoint)
        self._environ = environ
        self._lock = threading.Lock()
        self._signer: tuple[Key, S3Store] | None = None
        if config.key_env:
            _check_installed(config.name)

    def path(self, sha256: str) -> str:
        """Returns the name of a blob in the bucket."""
        start = f"{self.config.prefix}/" if self.config.prefix else ""
        return f"{start}sha256/{sha256[:2]}/{sha256}"

    def key(self) -> Key | None:
        """Returns the key; None where the source names none.

        Raises:
            KeyRefused: A variable that it names is not set, or holds what no key can be.
        """
        if not (self.config.key_env and self.config.secret_env):
            return None
        found: list[str] = []
        for variable in (self.config.key_env, self.config.secret_env):
            value = self._environ.get(variable, "").strip()
            if not value or not value.isascii() or not value.isprintable() or " " in value:
                reason = "holds no key" if value else "is not set in the daemon's environment"
                raise KeyRefused(f"{variable} {reason}", source=self.config.name)
            found.append(value)
        return Key(*found)

    def address(self, sha256: str) -> str:
        """Returns where a blob is read, signed for a while if the source has a key.

        Raises:
            KeyRefused: As ``key``.
            AddressRefused: The signed address is not the bucket's.
        """
        key = self.key()
        if key is None:
            middle = f"{self.config.bucket}/" if self.config.style == "path" else ""
            return f"{self.endpoint}/{middle}{self.path(sha256)}"
        import obstore

        address = obstore.sign(self._signer_of(key), "GET", self.path(sha256), SIGNED_FOR)
        if Origin.parse(address) != self.origin:
            # A variable of the environment that a later obstore puts above what it is given.
            raise AddressRefused(
                f"{self.origin} was signed for another place", source=self.config.name
            )
        return address

    def _signer_of(self, key: Key) -> S3Store:
        with self._lock:
            if self._signer is None or self._signer[0] != key:
                self._signer = (key, store_of(self.config, self.endpoint, key))
            return self._signer[1]


def store_of(config: SourceConfig, endpoint: str, key: Key) -> S3Store:
    """Returns obstore's view of the bucket, in which nothing is left to the environment that signs.

    Args:
        config: The source.
        endpoint: As ``bucket_endpoint`` says.
        key: Signs.
    """
    from obstore.store import S3Store

    def provide() -> S3Credential:
        return {
            "access_key_id": key.access,
            "secret_access_key": key.secret,
            "token": None,
            "expires_at": None,
        }

    return S3Store(
        config.bucket,
        endpoint=endpoint,
        # The environment's would stand above the other.
        aws_endpoint_url_s3=endpoint,
        region=config.region,
        virtual_hosted_style_request=config.style == "host",
        skip_signature=False,
        s3_express=False,
        unsigned_payload=False,
        request_payer=False,
        # One request may carry a large part over a slow line.
        client_options={"allow_http": True, "timeout": "600s"},
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(minutes=5)},
        credential_provider=provide,
    )


def _check_installed(name: str) -> None:
    if find_spec("obstore") is None:
        raise UsageError(
            "the source {name} is of kind s3, which needs obstore",
            hint="where the daemon is installed: pip install 'zhcache[s3]'",
            name=name,
        )
