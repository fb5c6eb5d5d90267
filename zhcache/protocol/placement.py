"""What is said of placements: devices, what joins them, what a model's weights take, and plans.

Sizes are bytes.
"""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.base import Message
from zhcache.protocol.sources import Phrase

Kind = Literal["single", "replicate", "split", "parallel", "offload"]
How = Literal["one", "copies", "apart", "freed", "sharded", "guidance", "ulysses", "streamed"]
Use = Literal["whole", "copy", "shard", "streamed"]


class DeviceInfo(Message):
    """One GPU: ``name`` is ``cuda:N`` as the caller's ``CUDA_VISIBLE_DEVICES`` counts it.

    ``most`` are the bytes of weights that the daemon may keep there beside what is in use, as
    ``[residency] vram`` says; ``idle`` those that it keeps for nobody, and lets go for others.
    """

    name: str
    uuid: str
    model: str
    total: int
    free: int
    most: int | None = None
    idle: int = 0


class LinkInfo(Message):
    """What joins two GPUs, named by UUID.

    ``nvlink``; ``pcie``, within one socket; ``system``, over sockets; ``none``, where no process
    can use both: one of them is a slice of a divided GPU.
    """

    one: str
    other: str
    kind: Literal["nvlink", "pcie", "system", "none"]


class DeviceList(Message):
    """``GET /v1/devices``: the GPUs that the caller sees, and the memory of the machine."""

    devices: list[DeviceInfo]
    links: list[LinkInfo]
    host_total: int
    host_free: int
    schema: int = 1


class WeightsPart(Message):
    """What is to be known of a component of a pipeline without its files.

    ``bytes`` are of its weights, ``largest`` of their largest tensor, ``block`` of the largest
    layer. ``config`` has the numbers of its configuration that memory is reckoned from
    (``zhcache.placement.activation.known``). ``dtype`` is what it computes in, by torch's name;
    empty where it has no weights.
    """

    library: str
    class_name: str
    bytes: int = 0
    largest: int = 0
    block: int = 0
    dtype: str = ""
    config: dict[str, int | bool | list[int]] = {}


class SeenCall(Message):
    """What calls of one size took of a GPU at most beside the weights, phase by phase.

    ``batch`` are images, or films of ``frames``, that came out at once. ``encode`` is 0 where it
    was no more than a step. With ``is_tiled`` the autoencoder worked in tiles. ``calls`` is how
    many there were.
    """

    width: int
    height: int
    step: int
    decode: int
    batch: int = 1
    frames: int = 1
    encode: int = 0
    is_tiled: bool = False
    calls: int = 1


class WeightsList(Message):
    """``GET /v1/weights/{repo}``: the components of a held pipeline, in the order of its index.

    ``pipeline`` is its class; ``seen`` is what calls of it took in the daemon's workers.
    """

    repo: str
    commit: str
    variant: str | None
    parts: dict[str, WeightsPart]
    pipeline: str = ""
    seen: list[SeenCall] = []
    schema: int = 1


class PlacedDevice(Message):
    """One device: ``bytes`` is what the plan takes of it at most; of one that is left out, 0."""

    name: str
    total: int
    free: int
    bytes: int
    uuid: str = ""


class PlacedComponent(Message):
    """Where a component is.

    ``device`` is the first of ``devices``; ``bytes`` are all of its weights. ``use`` is ``whole``,
    ``copy`` (one on each device), ``shard`` (a piece on each) or ``streamed`` (the weights wait in
    host memory and come to the device layer by layer).
    """

    device: str
    bytes: int
    use: Use
    devices: dict[str, int]


class PlacedNot(Message):
    """A placement that was not taken, and why; ``how`` is which of its kind, if any was tried."""

    placement: Kind
    reason: str
    phrase: Phrase
    how: How | None = None


class Placed(Message):
    """Where a pipeline goes: what ``zhcache plan --json`` prints.

    Attributes:
        placement: ``single``, ``replicate``, ``split``, ``parallel`` or ``offload``.
        how: Which of its kind.
        workers: The devices of which each makes images, or which share one if ``parallel``.
        devices: All that were asked about, and the host where weights wait there.
        components: Those that have weights.
        activation_bytes: What calls take beside the weights, margin included.
        tiled: The autoencoder works in tiles.
        reason: Why, in English; ``phrases`` is the same to be put into another language.
        rejected: What else was considered.
    """

    repo: str
    commit: str
    variant: str | None
    placement: Kind
    how: How
    workers: list[str]
    devices: list[PlacedDevice]
    components: dict[str, PlacedComponent]
    activation_bytes: int
    tiled: bool
    size: list[int]
    batch: int
    reason: str
    rejected: list[PlacedNot]
    phrases: list[Phrase]
    schema: int = 1

    def __str__(self) -> str:
        return self.reason
