"""What all parts of one open store stand on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Self

from zhcached.clock import Clock
from zhcached.config import StoreConfig
from zhcached.store.blobs import Blobs
from zhcached.store.catalog import Catalog
from zhcached.store.layout import Layout
from zhcached.store.leases import Leases, boot_id
from zhcached.store.manifests import Manifests
from zhcached.store.view import HubView


@dataclass(frozen=True, slots=True)
class Context:
    """One open store. Made by ``Store.open``.

    Attributes:
        layout: Where it lies.
        config: Its quota, its floor and how long what is kept.
        clock: The time.
        catalog: The index.
        blobs: The blobs.
        manifests: The manifests.
        view: The Hugging Face view.
        leases: Leases and holds.
        boot: Name of this boot, within which monotonic times compare.
        writing: The writers' lock: publish, remove, collect, rebuild.
    """

    layout: Layout
    config: StoreConfig
    clock: Clock
    catalog: Catalog
    blobs: Blobs
    manifests: Manifests
    view: HubView
    leases: Leases
    boot: str
    writing: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def open(cls, layout: Layout, config: StoreConfig, clock: Clock) -> Self:
        """Opens the index of the store at ``layout``, whose folders are there.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        manifests = Manifests(layout)
        catalog = Catalog(layout.index)
        return cls(
            layout,
            config,
            clock,
            catalog=catalog,
            blobs=Blobs(layout),
            manifests=manifests,
            view=HubView(layout, manifests.is_complete),
            leases=Leases(catalog, clock),
            boot=boot_id(),
        )
