"""Whether a source that lists a digest has the bytes, where ours are nobody's to give.

A listing is a claim. Digests of gated files are public: a mirror could list one as a file of its
own, and whoever asks this gateway for that file would be given the bytes that are here. So bytes
that are here only as part of what may not be served are given under another name once that name's
hub has sent a stretch of them, anywhere in the file, that is the same. Nor are bytes passed on that
a peer or a store of the site gives to this machine by their digest, before the hub has shown so.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from zhcache.errors import NotFound, ZhcacheError
from zhcache.protocol.names import parse_repo
from zhcached.config import ServeConfig
from zhcached.errors import RemoteError
from zhcached.fetch.answer import accept
from zhcached.jobs.asking.brief import Brief, narrowed
from zhcached.jobs.fetching.gather import Fetcher
from zhcached.jobs.pulling.listed import Listed, Listing
from zhcached.sources.base import RemoteFile
from zhcached.sources.trust import FileTrust
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

    def cleared(self, brief: Brief) -> Brief:
        """Returns the brief of one file without those that may not be asked for it by its digest.

        They would send it to this machine, which they know, and not to all that ask here.
        """
        (file,) = brief.comparison.files
        # Nor is what they only bring: a machine of the site may be told to give it to this one.
        sources = {n: one for n, one in brief.sources.items() if n in brief.resolutions}
        brief = dataclasses.replace(brief, sources=sources)
        asked = [n for n in file.served_by if n in brief.holders and n not in brief.resolutions]
        if not asked or str(brief.repo) in self._config.entitled:
            return brief
        if file.promise.size > STRETCH and self._is_shown_of(brief, file, asked):
            return brief
        left = tuple(name for name in file.served_by if name not in asked)
        files = (msgspec.structs.replace(file, served_by=left),)
        comparison = msgspec.structs.replace(brief.comparison, files=files)
        return dataclasses.replace(brief, comparison=comparison)

    def _is_shown_of(self, brief: Brief, file: FileTrust, holders: Sequence[str]) -> bool:
        """Tells whether a hub has what the first of ``holders`` that answers sends."""
        size, sha256 = file.promise.size, file.promise.sha256 or ""
        start = _somewhere(size)
        for name in holders:
            locate = partial(brief.holders[name].locate_blob, sha256)
            theirs = stretch(self._fetcher.transport, locate, start, size)
            if theirs is not None:
                return self._is_shown(brief, theirs, start)
        return False

    def _is_proven(self, listed: Listed, file: RemoteFile, found: Committed) -> bool:
        start = _somewhere(found.size)
        try:
            with self._fetcher.store.blobs.path(found.sha256).open("rb") as blob:
                ours = os.pread(blob.fileno(), STRETCH, start)
            brief = narrowed(self._asked.brief(listed, file), file.path)
        except (ZhcacheError, OSError):
            return False
        return self._is_shown(brief, ours, start)

    def _is_shown(self, brief: Brief, ours: bytes, start: int) -> bool:
        """Tells whether a hub that lists the file of a brief sends the same from ``start`` on."""
        fetcher = self._fetcher
        (file,) = brief.comparison.files
        alike, others = brief.offers(file, fetcher.config, fetcher.health.rates())
        return any(
            stretch(fetcher.transport, offer.locate, start, file.promise.size) == ours
            for offer in (*alike, *others)
            if (said := brief.resolutions.get(offer.source)) is not None and said.is_hub
        )


def not_shown(listed: Listed, file: RemoteFile) -> NotFound:
    """Returns the refusal of a file that is here and may not be given."""
    return NotFound(
        "{path} of {repo} is not served: nobody has shown to have it but a model here that "
        "is not public",
        hint="its source must be in reach once; [serve] entitled names what may be served",
        path=file.path,
        repo=listed.repo,
    )


def stretch(
    transport: Transport, locate: Callable[[], Target], start: int, size: int
) -> bytes | None:
    """Returns ``STRETCH`` bytes of a file, or all to its end; None if they are not sent.

    Args:
        transport: The way there.
        locate: Returns where the file is.
        start: The first of them.
        size: Of the file.
    """
    end = min(start + STRETCH, size)
    try:
        with transport.open(
            locate(),
            headers={"Range": f"bytes={start}-{end - 1}"},
            read_timeout_s=_WAIT_S / _QUIET_READS,
            head_timeout_s=_WAIT_S,
        ) as response:
            # A source without ranges would show the beginning, which anybody may know.
            if response.status >= 400 or "content-range" not in response.headers:
                return None
            accept(
                start,
                end,
                size=size,
                status=response.status,
                headers=response.headers,
                url=response.url,
            )
            return _read(response, end - start)
    except (ZhcacheError, RemoteError):
        return None


def _somewhere(size: int) -> int:
    """Returns where a stretch begins that nobody could foresee."""
    return secrets.randbelow(max(size - STRETCH, 0) + 1)


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
