"""Where each tensor of a loaded component lies in its arena.

Read off the loaded module, never off its files: so names that a library changes while it loads,
modules that it keeps wider, ties, and buffers that no file holds are right for every class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from zhcache.errors import UsageError
from zhcache.pipeline import wrapping
from zhcache.protocol.residency import ALIGNMENT, Table, Tensor

Kind = Literal["parameter", "buffer", "attribute"]

_PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Layout:
    """A component's table and, in its order, the tensors that go there.

    Attributes:
        bytes: What the arena needs.
    """

    table: Table
    tensors: list[torch.Tensor]
    bytes: int


def lay_out(module: torch.nn.Module, table: Table) -> Layout:
    """Returns the layout of ``module``; ``table`` says what it is and has no tensors yet.

    Raises:
        UsageError: A tensor is more than its bytes, as those of quantized modules are.
    """
    tensors: list[torch.Tensor] = []
    first: dict[int, str] = {}
    end = 0
    for name, kind, persistent, held in _walk(module):
        if id(held) in first:
            table.aliases[name] = first[id(held)]
            continue
        first[id(held)] = name
        for part, tensor in _parts(held, table, name, kind):
            table.tensors.append(
                Tensor(
                    name=part,
                    dtype=str(tensor.dtype).removeprefix("torch."),
                    shape=list(tensor.shape),
                    strides=list(tensor.stride()),
                    offset=end if tensor.numel() else 0,
                    kind=kind,
                    persistent=persistent,
                )
            )
            tensors.append(tensor)
            end = aligned(end + tensor.numel() * tensor.element_size())
    return Layout(table, tensors, max(end, ALIGNMENT))


def aligned(offset: int) -> int:
    """Returns the first place at or after ``offset`` where a tensor may start."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the elements of a laid out tensor in the order of its memory, ``(n,) uint8``."""
    flat = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return flat.view(torch.uint8)


def _walk(module: torch.nn.Module) -> Iterator[tuple[str, Kind, bool, torch.Tensor]]:
    """Yields name, kind, whether it is persistent, and tensor; tied ones under each name."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        yield name, "parameter", True, parameter
    for path, part in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False):
            persistent = name not in part._non_persistent_buffers_set
            yield prefix + name, "buffer", persistent, buffer
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for name, value in vars(part).items():
            # On meta it has no content here, so nobody can need it.
            if isinstance(value, torch.Tensor) and not value.is_meta:
                yield prefix + name, "attribute", False, value


def _parts(
    held: torch.Tensor, table: Table, name: str, kind: Kind
) -> list[tuple[str, torch.Tensor]]:
    """Returns what lies in the arena for one tensor, by name: several, where it wraps others."""
    inner = wrapping.inner(held) if kind == "parameter" else {}
    if not inner:
        return [(name, _plain(held, table, name))]
    path, dot, leaf = name.rpartition(".")
    # Such names are those that torchao gives them in files.
    names = {field: f"{path}{dot}_{leaf}_{field}" for field in inner}
    table.wrapped[name] = wrapping.recipe(held, names)
    return [(names[field], _plain(one, table, names[field])) for field, one in inner.items()]


def _plain(held: torch.Tensor, table: Table, name: str) -> torch.Tensor:
    if type(held) not in _PLAIN or held.layout != torch.strided or held.is_meta:
        raise UsageError(
            "{component} cannot be shared: its tensor {name} is a {kind} on {device}",
            hint="load it with device='cpu' and move it: quantized weights are not shared yet",
            component=table.component,
            name=name,
            kind=type(held).__name__,
            device=held.device,
        )
    tensor = held.detach()
    # Dense memory in any order of its axes is kept as it is; anything else is packed.
    is_dense = tensor.stride() == torch.empty_like(tensor, device="meta").stride()
    return tensor if is_dense else tensor.contiguous()
