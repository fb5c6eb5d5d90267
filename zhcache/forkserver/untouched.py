"""Keeps imports from starting CUDA or NVML, by answering what they ask of the GPUs.

A process that is to be forked may have neither: CUDA survives no fork, and NVML, which torch can
ask in its place, starts a thread and keeps devices open (seen with NVIDIA's driver 580). Wherever
torchao is installed diffusers imports it, and its import asks how able the GPUs are. A child that
ends at once has CUDA tell.

Source: torch/utils/_triton.py, has_triton; diffusers/utils/torch_utils.py, TorchDeviceBackend.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_TOLD = ("name", "major", "minor", "total_memory", "multi_processor_count")
_ASKED = ("is_available", "device_count", "current_device", "get_device_properties")


class Properties:
    """A device's properties, as far as imports ask for them.

    Args:
        told: What is known.
        real: Returns them all, from CUDA.
    """

    def __init__(self, told: dict[str, Any], real: Callable[[], Any]) -> None:
        vars(self).update(told)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        # Once CUDA has started here, whoever meant to fork sees that and does not.
        return getattr(self._real(), name)


def abilities() -> Sequence[dict[str, Any]]:
    """Returns what CUDA tells of each GPU, asked in a child; nothing where it tells nothing.

    The caller has one thread, or only such as a fork may lose.
    """
    import torch

    if torch.version.cuda is None:
        return []
    reads, writes = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writes, json.dumps(_told(torch.cuda)).encode())
        finally:
            # Never past here: the rest of the stack is the caller's. What failed has told nothing.
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return json.loads(said or b"[]")


def _told(cuda: Any) -> list[dict[str, Any]]:
    if not cuda.is_available():
        return []
    devices = map(cuda.get_device_properties, range(cuda.device_count()))
    return [{name: getattr(device, name) for name in _TOLD} for device in devices]


@contextlib.contextmanager
def untouched(ask: Callable[[], Sequence[dict[str, Any]]] = abilities) -> Iterator[None]:
    """Within it torch, which is imported here, tells of GPUs what ``ask`` knows of them.

    Where that is nothing, nothing is changed.
    """
    import torch

    cuda: Any = torch.cuda
    told = ask()
    if not told:
        yield
        return
    real = {name: getattr(cuda, name) for name in _ASKED}
    is_over = False

    def index_of(device: Any) -> int:
        if isinstance(device, int):
            return device
        return (None if device is None else torch.device(device).index) or 0

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: len(told),
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: Properties(
            told[index_of(device)], lambda: real["get_device_properties"](device)
        ),
    }

    def answering(name: str) -> Callable[..., Any]:
        # Libraries keep these functions, so they have to be right afterwards as well.
        def answer(*arguments: Any, **options: Any) -> Any:
            known = real if is_over or cuda.is_initialized() else answers
            return known[name](*arguments, **options)

        return answer

    for name in _ASKED:
        setattr(cuda, name, answering(name))
    try:
        yield
    finally:
        is_over = True
        for name, function in real.items():
            setattr(cuda, name, function)
        _forget()


def _forget() -> None:
    # What is compiled later asks again, and then for more.
    if (kept := sys.modules.get("torch._dynamo.device_interface")) is not None:
        vars(kept).get("caching_worker_device_properties", {}).pop("cuda", None)
