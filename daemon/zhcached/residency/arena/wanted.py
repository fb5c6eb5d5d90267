"""What one attach asks for, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zhcache.errors import UsageError
from zhcache.protocol.frames import MAX_FDS
from zhcache.protocol.names import parse_repo
from zhcached.config import ResidencyConfig
from zhcached.residency.arena.contents import Component, contents
from zhcached.residency.arena.fill import Filling
from zhcached.residency.arena.held import Use
from zhcached.residency.arena.scopes import key_of, scope_of
from zhcached.residency.devices import CPU, Devices
from zhcached.store.store import Store


class Signal(Protocol):
    """What ``threading.Event`` is to who only asks."""

    def is_set(self) -> bool:
        """Tells whether it has happened."""
        ...


@dataclass(eq=False, slots=True)
class Wanted:
    """One attach. Guarded by the lock of ``Arenas``.

    Attributes:
        lease: Who asks.
        use: For what.
        folder: Where the snapshot lies.
        device: Where the weights are wanted.
        scope: Who may share what is filled.
        capacity: Bytes that the device may hold in all.
        components: What is asked for, by the key of its arena.
        elsewhere: Bytes that others of this daemon have on the device.
        lacking: Bytes for which room is waited, 0 where it is not.
        joined: Fills that are waited for.
        pinned: Keys that the lease has only since this attach.
        mends: Keys that are filled anew because they were damaged.
    """

    lease: str
    use: Use
    folder: str
    device: str
    scope: str
    capacity: int
    components: Mapping[str, Component]
    elsewhere: int = 0
    lacking: int = 0
    joined: set[Filling] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    mends: set[str] = field(default_factory=set)


def wanted_of(
    store: Store,
    config: ResidencyConfig,
    devices: Devices,
    lease: str,
    use: Use,
    device: str,
    components: Sequence[str] | None,
) -> Wanted:
    """Returns what a lease asks for, with its device and its arenas named.

    Raises:
        NotFound: The snapshot is gone.
        UsageError: No such device or component, or no pipeline with weights.
        StoreDamaged: The snapshot cannot be read.
    """
    device = devices.resolve(device)
    repo = parse_repo(use.repo)
    found = contents(store, repo, use.commit)
    names = {one.name for one in found}
    if components is not None and (unknown := sorted(set(components) - names)):
        raise UsageError(
            "{repo} has no component {name} with weights",
            hint="it has {there}",
            repo=repo,
            name=unknown[0][:80],
            there=", ".join(sorted(names)),
        )
    if not 0 < len(found) <= MAX_FDS:
        raise UsageError(
            "{repo} has {count} components with weights, and 1 to {limit} can be handed over",
            hint="zhcache path gives its folder, for the library that reads it",
            repo=repo,
            count=len(found),
            limit=MAX_FDS,
        )
    scope = scope_of(device, config.share, use.uid, lease)
    return Wanted(
        lease=lease,
        use=use,
        folder=str(store.view.snapshot_dir(repo, use.commit)),
        device=device,
        scope=scope,
        capacity=devices.capacity(device, config.ram if device == CPU else config.vram),
        components={
            key_of(one.digest, device, scope): one
            for one in found
            if components is None or one.name in components
        },
    )
