"""A store, a transport and short ways to ask for a file from servers that misbehave."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import dataclass, field

from harness.storekit import promise_of
from zhcached.config import DownloadConfig
from zhcached.fetch.download import Control, Obtained, Offer, obtain
from zhcached.fetch.limits import RateLimiter
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Target, Transport

MIB = 2**20


def content_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def long_content(size: int) -> bytes:
    """Bytes that are made fast and still differ from any shifted copy of themselves nearby."""
    block = content_of(MIB + 13)
    return (block * (size // len(block) + 1))[:size]


@dataclass
class Fetching:
    """One store and what happened while it was filled."""

    store: object
    servers: list = field(default_factory=list)
    config: DownloadConfig = field(
        default_factory=lambda: DownloadConfig(stall=0.6, min_rate=64 * 1024, connections=4)
    )
    control: Control = field(default_factory=Control)
    limiter: RateLimiter = field(default_factory=lambda: RateLimiter(0))
    events: list = field(default_factory=list)

    def __post_init__(self):
        self._lock = threading.Lock()
        self.control.on_event = self._note
        self._transports = []

    def _note(self, kind, sender, detail):
        with self._lock:
            self.events.append((kind, sender.source, detail))

    def kinds(self, source):
        return [kind for kind, name, _ in self.events if name == source]

    def transport(self, *urls, **options):
        opened = Transport(AddressPolicy.of(urls), connect_timeout_s=2, **options)
        self._transports.append(opened)
        return opened

    def obtain(self, content, offers, *, transport=None, **limits) -> Obtained:
        origins = [url for offer in offers for url in self.origins(offer)]
        return obtain(
            lambda: self.store.intake.begin(promise_of(content), "job"),
            offers,
            transport=transport or self.transport(*origins, *self.servers),
            config=limits.get("config", self.config),
            limiter=self.limiter,
            control=self.control,
        )

    @staticmethod
    def origins(offer):
        with contextlib.suppress(Exception):
            return [offer.locate().url]
        return []

    def blob(self, obtained: Obtained) -> bytes:
        return self.store.blobs.path(obtained.sha256).read_bytes()

    def close(self):
        for opened in self._transports:
            opened.close()


def offer(name, url, **options) -> Offer:
    return Offer(name, lambda: Target(url), **options)
