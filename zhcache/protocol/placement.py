"""What the daemon says for a placement: devices, what joins them, and what a model's weights take.

Sizes are bytes.
"""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.base import Message


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


class WeightsList(Message):
    """``GET /v1/weights/{repo}``: the components of a held pipeline, in the order of its index.

    ``pipeline`` is its class.
    """

    repo: str
    commit: str
    variant: str | None
    parts: dict[str, WeightsPart]
    pipeline: str = ""
    schema: int = 1
