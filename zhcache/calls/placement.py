"""What a client can ask about places: devices, weights, and where a pipeline would go."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from zhcache import arguments, resources
from zhcache.calls.calls import Calls
from zhcache.protocol.messages import Resident
from zhcache.protocol.placement import DeviceList, WeightsList

if TYPE_CHECKING:
    from zhcache.protocol.placement import Placed

MAX_SIDE = 16_384
MAX_BATCH = 1024
MAX_BYTES = 2**63 - 1
_DEVICES = "'cpu' | 'cuda:0,cuda:1' | '24GiB,24GiB' | '80GiB,80GiB@nvlink' | a list of names"


class PlacementCalls(Calls):
    """The part of ``Client`` that placements are."""

    @abstractmethod
    def resident(self) -> list[Resident]:
        """Returns what is leased or warm."""

    def devices(self) -> DeviceList:
        """Returns the GPUs that this process sees, what joins them, and the machine's memory."""
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        query = None if seen is None else {"visible": seen}
        return self._line().call("GET", "/v1/devices", DeviceList, query=query)

    def weights(
        self, repo: str, *, variant: str | None = None, revision: str | None = None
    ) -> WeightsList:
        """Returns what the components of a held pipeline take, by the headers of their files.

        Raises:
            NotFound: It is not held, or not in this variant.
            UsageError: It is no pipeline.
        """
        resources.check(repo, revision)
        where = f"/v1/weights/{quote(repo, safe='/')}"
        query = resources.query(revision=revision, variant=variant)
        return self._line().call("GET", where, WeightsList, query=query)

    def plan(
        self,
        repo: str,
        *,
        variant: str | None = None,
        revision: str | None = None,
        devices: str | Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        batch: int = 1,
        placement: str = "auto",
        seen: Mapping[tuple[int, int], int] | None = None,
        host_memory: str | int | None = None,
    ) -> Placed:
        """Returns where a held pipeline would be placed, and why. Nothing is loaded.

        Args:
            repo: ``OWNER/NAME``.
            variant: Which variant of it; None as published.
            revision: Branch, tag or commit; None is the default branch.
            devices: Those that may be used: ``"cuda:0,cuda:1"``, ``"cpu"``, a list of such names;
                or sizes of GPUs that are supposed, ``"24GiB,24GiB"``, with ``@nvlink``, ``@pcie``,
                ``@system`` or ``@none`` behind the last for what joins them. None is what is here.
            size: Width and height of a call's images in pixels; None is the pipeline's own.
            batch: Images of one call.
            placement: ``"single"``, ``"replicate"``, ``"split"``, ``"parallel"``, ``"offload"``;
                ``"auto"`` is any but ``"parallel"``.
            seen: Bytes that a call of one image took beside the weights, by width and height, as
                ``zhcache monitor`` saw it for instance: what is reckoned is brought to it. None is
                what the daemon's workers saw, ``{}`` is what is reckoned from sizes alone.
            host_memory: What is free of the host's memory beside the devices, ``"128GiB"`` or
                bytes; None is what is free here.

        Raises:
            NotFound: It is not held, or not in this variant.
            UsageError: An argument cannot be meant, or a placement not be had of this pipeline.
            NoSpace: It does not fit.
        """
        from zhcache.placement.activation import Size
        from zhcache.placement.devices import chosen
        from zhcache.placement.heard import machine_of, model_of
        from zhcache.placement.plan import decide
        from zhcache.placement.result import placed
        from zhcache.placement.seen import Seen

        taken: Mapping[tuple[int, int], int] = {} if seen is None else seen
        _check(repo, variant, revision, devices, size, batch, taken, host_memory)
        named = devices if devices is None or isinstance(devices, str) else ",".join(devices)
        heard = self.weights(repo, variant=variant, revision=revision)
        uuids = self._there(heard)
        machine = chosen(named, machine_of(self.devices(), uuids), _bytes(host_memory))
        there = [one.name for one in machine.devices if one.uuid in uuids]
        took = None if seen is None else [Seen(Size(*at), count) for at, count in seen.items()]
        if took is None and not machine.gpus:
            # What workers saw they saw on GPUs, whose kernels are others than the CPU's.
            took = []
        model, asked = model_of(heard, Size(*size) if size else None, batch, there, took)
        plan = decide(model, machine, placement)
        return placed(
            plan,
            model,
            machine,
            asked,
            repo=heard.repo,
            commit=heard.commit,
            variant=heard.variant,
        )

    def _there(self, heard: WeightsList) -> set[str]:
        """Returns the UUIDs of devices that hold the weights already, shared with this user."""
        return {
            each.device
            for each in self.resident()
            if each.mode == "attach"
            and each.uid == os.getuid()
            and (each.repo, each.commit, each.variant) == (heard.repo, heard.commit, heard.variant)
        }


def _check(
    repo: object,
    variant: object,
    revision: object,
    devices: object,
    size: object,
    batch: object,
    seen: object,
    host_memory: object,
) -> None:
    told = {
        "repo": (repo, isinstance(repo, str), "OWNER/NAME"),
        "variant": (variant, variant is None or isinstance(variant, str), "a name or None"),
        "revision": (revision, revision is None or isinstance(revision, str), "a name or None"),
        "devices": (devices, devices is None or _are_names(devices), _DEVICES),
        "size": (size, size is None or _is_size(size), f"(width, height) up to {MAX_SIDE}"),
        "batch": (batch, type(batch) is int and 0 < batch <= MAX_BATCH, f"1 to {MAX_BATCH}"),
        "seen": (seen, _is_seen(seen), "{(width, height): bytes}"),
        "host_memory": (
            host_memory,
            host_memory is None or _bytes(host_memory) is not None,
            "'128GiB' | bytes",
        ),
    }
    arguments.check(told)


def _are_names(devices: object) -> bool:
    return isinstance(devices, str) or (
        isinstance(devices, (list, tuple))
        and all(isinstance(one, str) for one in cast("Sequence[object]", devices))
    )


def _bytes(size: object) -> int | None:
    from zhcache.placement.sizes import bytes_of

    if isinstance(size, str):
        return bytes_of(size)
    return size if type(size) is int and 0 < size <= MAX_BYTES else None


def _is_size(size: object) -> bool:
    if not isinstance(size, (list, tuple)):
        return False
    sides = cast("Sequence[object]", size)
    return len(sides) == 2 and all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)


def _is_seen(seen: object) -> bool:
    return isinstance(seen, Mapping) and all(
        _is_size(size) and type(count) is int and 0 < count <= MAX_BYTES
        for size, count in cast("Mapping[object, object]", seen).items()
    )
