"""Whether a source that lists a digest has the bytes, where ours are nobody's to give.

A listing is a claim. Digests of gated files are public: a mirror could list one as a file of its
own, and whoever asks this gateway for that file would be given the bytes that are here. So bytes
that are here only as part of what may not be served are given under another name once that name's
hub has sent a stretch of them, anywhere in the file, that is the same.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from zhcache.errors import ZhcacheError
from zhcache.protocol.names import parse_repo
from zhcached.config import ServeConfig
from zhcached.errors import RemoteError
from zhcached.fetch.answer import accept
from zhcached.jobs.asking.brief import narrowed
from zhcached.jobs.fetching.gather import Fetcher
from zhcached.jobs.pulling.listed import Listed, Listing
from zhcached.sources.base import RemoteFile
from zhcached.store import listing
from zhcached.store.digest import Committed
from zhcached.transport.http import Target, Transport
from zhcached.transport.response import Response
from zhcached.transport.wire import QuietError

STRETCH = 64 * 2**10
_WAIT_S = 5.0
_QUIET_READS = 10


class Possession:
    """Judges blobs that were found by their digest. Thread-safe.

    Args:
        fetcher: The store, and the way to the sources.
        asked: What the sources said.
        config: What may be served though it is not public.
    """

    def __init__(self, fetcher: Fetcher, asked: Listing, config: ServeConfig) -> None:
        self._fetcher = fetcher
        self._asked = asked
        self._config = config

    def may_give(self, listed: Listed, file: RemoteFile, found: Committed) -> bool:
        """Tells whether a blob that is here may be given as a file of a listing."""
        if not found.size or str(listed.repo) in self._config.entitled:
            return True
        return self._is_served(found.sha256) or self._is_proven(listed, file, found)

    def _is_served(self, sha256: str) -> bool:
        """Tells whether some snapshot has the blob that may be served."""
        return any(
            repo in self._config.entitled or self._is_public(repo, commit)
            for repo, commit, _ in listing.users(self._fetcher.store.catalog, sha256)
        )

    def _is_public(self, repo: str, commit: str) -> bool:
        try:
            return self._fetcher.store.manifests.read(parse_repo(repo), commit).is_public
        except (FileNotFoundError, ZhcacheError):
            return False

    def _is_proven(self, listed: Listed, file: RemoteFile, found: Committed) -> bool:
        fetcher = self._fetcher
        blob = fetcher.store.blobs.path(found.sha256)
        try:
            brief = narrowed(self._asked.brief(listed, file), file.path)
            (wanted,) = brief.comparison.files
            alike, others = brief.offers(wanted, fetcher.config, fetcher.health.rates())
            return any(
                has(fetcher.transport, offer.locate(), blob, found.size)
                for offer in (*alike, *others)
                if (said := brief.resolutions.get(offer.source)) is not None and said.is_hub
            )
        except (ZhcacheError, RemoteError, OSError):
            return False


def has(transport: Transport, target: Target, blob: Path, size: int) -> bool:
    """Tells whether ``target`` sends a stretch of ``blob``, at a place that it cannot foresee.

    Args:
        transport: The way there.
        target: Where the hub says that the file is.
        blob: The bytes that are here.
        size: Of them.
    """
    length = min(STRETCH, size)
    start = secrets.randbelow(size - length + 1)
    try:
        with transport.open(
            target,
            headers={"Range": f"bytes={start}-{start + length - 1}"},
            read_timeout_s=_WAIT_S / _QUIET_READS,
            head_timeout_s=_WAIT_S,
        ) as response:
            # A source without ranges would show the beginning, which anybody may know.
            if response.status >= 400 or "content-range" not in response.headers:
                return False
            accept(
                start,
                start + length,
                size=size,
                status=response.status,
                headers=response.headers,
                url=response.url,
            )
            came = _read(response, length)
    except RemoteError:
        return False
    with blob.open("rb") as file:
        return came == os.pread(file.fileno(), length, start)


def _read(response: Response, length: int) -> bytes:
    buffer = memoryview(bytearray(length))
    came = quiet = 0
    while came < length and quiet < _QUIET_READS:
        try:
            count = response.readinto(buffer[came:])
        except QuietError:
            quiet += 1
            continue
        if count == 0:
            break
        came += count
    return bytes(buffer[:came])
