"""A loaded pipeline's weights laid anew: where they lie, and how they are aligned, as one chooses.

For experiments on what the place of a weight does to the result. The product's own layout is
``zhcached.workers.layout``; this one can also do what that one never does.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from zhcache.protocol.residency import ALIGNMENT

Memory = Callable[[int], torch.Tensor]
"""Returns ``(size,) uint8``, writable, on the device of the experiment."""

PACKED = 1


def lay(pipeline: Any, memory: Memory, alignment: int, device: str) -> Any:
    """Moves every parameter into one piece of memory, and all buffers to ``device``.

    Args:
        pipeline: Loaded on the CPU.
        memory: Where the parameters go.
        alignment: Bytes; ``PACKED`` puts each right behind the one before, as safetensors does.
        device: Where buffers go.
    """
    for module in modules(pipeline):
        names = sorted(name for name, _ in module.named_parameters())
        offsets, total = _offsets(dict(module.named_parameters()), names, alignment)
        flat = memory(total)
        for name in names:
            _place(module, name, flat, offsets[name])
        for name, buffer in list(module.named_buffers()):
            owner, leaf = _owner(module, name)
            owner._buffers[leaf] = buffer.to(device)
    return pipeline


def modules(pipeline: Any) -> Iterator[torch.nn.Module]:
    """Yields the components of a pipeline that have weights."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            yield component


def misaligned(pipeline: Any, bytes_: int = 16) -> tuple[int, int]:
    """Returns how many parameters do not begin at a multiple of ``bytes_``, and how many."""
    pointers = [p.data_ptr() for m in modules(pipeline) for p in m.parameters()]
    return sum(pointer % bytes_ != 0 for pointer in pointers), len(pointers)


def memfd(size: int) -> torch.Tensor:
    """Shared memory as an arena on the CPU has it: page-aligned, from a memfd."""
    fd = os.memfd_create("parity", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        area = mmap.mmap(fd, size)
    finally:
        os.close(fd)
    return torch.frombuffer(area, dtype=torch.uint8)


def private(device: str) -> Memory:
    """Memory of torch's own allocator."""
    return lambda size: torch.empty(size, dtype=torch.uint8, device=device)


def vmm(ordinal: int, *, writable: bool) -> Memory:
    """Memory of CUDA's virtual memory management, which is what an arena on a GPU is.

    It is written through a mapping of its own, and used through one that is as asked.
    """
    from zhcache.pipeline import cuda
    from zhcache.pipeline.vmm import Allocation

    def make(size: int) -> torch.Tensor:
        allocation = Allocation.create(size, ordinal)
        # Kept on the tensor, so that whoever fills it can: see _place.
        writing = cuda.as_tensor(allocation.map(writable=True))
        using = writing if writable else cuda.as_tensor(allocation.map(writable=False))
        _WRITING[using.data_ptr()] = writing
        allocation.close()
        return using

    return make


_WRITING: dict[int, torch.Tensor] = {}


def _place(module: torch.nn.Module, name: str, flat: torch.Tensor, offset: int) -> None:
    owner, leaf = _owner(module, name)
    old = owner._parameters[leaf]
    assert old is not None
    size = old.numel() * old.element_size()
    there = flat[offset : offset + size]
    writing = _WRITING.get(flat.data_ptr(), flat)[offset : offset + size]
    writing.copy_(_bytes_of(old.detach().contiguous()))
    if offset % old.element_size() == 0:
        new = there.view(old.dtype).view(old.shape)
    else:
        raise ValueError(f"{name} at {offset} is not aligned to its own elements")
    owner._parameters[leaf] = torch.nn.Parameter(new, requires_grad=False)


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Returns ``(n,) uint8`` over a contiguous tensor on the CPU; a scalar has no view as bytes."""
    size = tensor.numel() * tensor.element_size()
    raw = (ctypes.c_char * size).from_address(tensor.data_ptr())
    return torch.frombuffer(raw, dtype=torch.uint8)


def _offsets(
    parameters: dict[str, torch.nn.Parameter], names: list[str], alignment: int
) -> tuple[dict[str, int], int]:
    offsets: dict[str, int] = {}
    end = 0
    for name in names:
        parameter = parameters[name]
        size = parameter.element_size()
        step = max(alignment, size)
        offsets[name] = -(-end // step) * step
        end = offsets[name] + parameter.numel() * size
    return offsets, -(-end // ALIGNMENT) * ALIGNMENT


def _owner(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def anew(pipeline: Any) -> Any:
    """Replaces every module by one made from its configuration alone, over the same weights."""
    from transformers import PreTrainedModel

    for name, module in list(pipeline.components.items()):
        if not isinstance(module, torch.nn.Module):
            continue
        kind: Any = type(module)
        if isinstance(module, PreTrainedModel):
            made = kind(module.config)
        else:
            made = kind.from_config(module.config)
        for tensor, parameter in module.named_parameters():
            owner, leaf = _owner(made, tensor)
            owner._parameters[leaf] = parameter
        device = next(module.parameters()).device
        for tensor, buffer in list(made.named_buffers()):
            owner, leaf = _owner(made, tensor)
            owner._buffers[leaf] = buffer.to(device)
        setattr(pipeline, name, made.eval())
    return pipeline
