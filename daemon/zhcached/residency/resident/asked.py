"""What each worker is to be that a client's request asks for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from zhcache.protocol.residency import ResidentRequest
from zhcached.config import ChineseConfig
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.resident import kinds, prompted
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.planned import Placements
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store


@dataclass(frozen=True, slots=True)
class Asking:
    """What a request is read with.

    Attributes:
        store: Where the snapshots are.
        devices: What devices there are.
        placements: Says where components go that have several devices.
        chinese: What is configured of what reads Chinese prompts.
    """

    store: Store
    devices: Devices
    placements: Placements
    chinese: ChineseConfig

    def kinds(
        self, request: ResidentRequest, held: Manifest, warm: Collection[Kind]
    ) -> tuple[Kind, ...]:
        """Returns what each worker is to be; equal requests have equal ones.

        Args:
            request: A client's.
            held: The snapshot that it means.
            warm: What workers of the repository hold now.

        Raises:
            UsageError: It cannot be meant.
            ZhcacheError: The snapshot cannot be read.
        """
        resolve = self.devices.resolve
        if request.role == "prompts":
            return (prompted.kind_of(request, held, self.store, self.chinese),)
        if request.placement == "parallel":
            return (kinds.together_of(request, held, resolve),)
        if request.placement in ("split", "offload"):
            return (kinds.planned_of(request, held, self._named(request), request.placement),)
        if not request.devices:
            prefer = {kind.device for kind in warm if kind.commit == held.commit}
            return (kinds.kind_of(request, held, resolve(request.device, None, prefer=prefer)),)
        copies = kinds.replicas_of(request, held, resolve)
        if request.placement == "auto" and self._is_too_large(copies):
            devices = [kind.device for kind in copies]
            return (kinds.planned_of(request, held, devices, "split"),)
        return copies

    def _named(self, request: ResidentRequest) -> list[str]:
        named = request.devices or [request.device]
        if named == ["auto"]:
            return [gpu.uuid for gpu in self.devices.list()] or [CPU]
        return [self.devices.resolve(one) for one in named]

    def _is_too_large(self, copies: tuple[Kind, ...]) -> bool:
        devices = [kind.device for kind in copies]
        has_several_gpus = CPU not in devices and len(set(devices)) > 1
        # What is to come layer by layer has room in another way than a plan's.
        is_plain = copies[0].memory is None
        return has_several_gpus and is_plain and self.placements.is_better_split(copies[0], devices)
