"""What becomes of one component's tensors: the shape that every scheme has, casts and quantized.

A scheme plans, by names and shapes alone, what is written for each tensor of the source; the
dialogue (``convert.py``) reads, has the work done and sends it. Copies and casts are streamed by
``cast.py`` in small steps, whatever the scheme; only tensors that a scheme plans as ``quantize``
come to it, one at a time and whole.

Keys are the published ones, as in the source's files, which a module may call by other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from zhcached.workers.tensors import TensorInfo


@dataclass(frozen=True)
class Entry:
    """One tensor that is written.

    Attributes:
        name: Its key in the file.
        dtype: As safetensors spells it: ``F16``, ``BF16``, ``F8_E4M3``, ``I8``, ``U8`` ...
        shape: Its shape.
        source: The tensor of the source that it comes from; None where it comes from none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str | None


@dataclass(frozen=True)
class Group:
    """What becomes of one tensor of the source.

    Attributes:
        source: Its key.
        kind: ``copy``: the same bytes. ``cast``: one entry of the same shape in another dtype,
            where too large values become infinite as ``Tensor.to`` makes them; the dialogue finds
            them and plans anew. ``quantize``: ``Scheme.convert`` makes the entries.
        entries: What is written for it, in this order, beside each other. One for a copy and a
            cast, one or several for what is quantized.
        why: Why it is wider than the scheme's own dtype, for the report; empty where it is not.
    """

    source: str
    kind: Literal["copy", "cast", "quantize"]
    entries: tuple[Entry, ...]
    why: str = ""


class Scheme(Protocol):
    """What a component becomes. One is made for each component by ``schemes`` of the dialogue."""

    def plan(
        self,
        tensors: Mapping[str, TensorInfo],
        module: torch.nn.Module,
        wide: Mapping[str, str],
    ) -> list[Group]:
        """Returns what becomes of each tensor, in the order of ``tensors``, one group for each.

        Pure: equal arguments give an equal plan. It is called again with more in ``wide`` where a
        cast overflowed.

        Args:
            tensors: All of the component, of all its shards, in the order of the files.
            module: The component's module without weights, in eval mode.
            wide: Modules, dotted prefixes of tensors' keys, that must stay in the source's dtype,
                and why: NaN or infinite values were found in them, or they overflow. A tensor
                whose key is the prefix itself, or lies below it, is meant (``is_within``).

        Raises:
            UsageError: The scheme cannot be had for this component.
        """
        ...

    def metadata(self, groups: list[Group]) -> dict[str, str]:
        """Returns the metadata of the header of one file that holds ``groups``.

        It is added to what the source's file has (``{"format": "pt"}``), and written sorted.
        """
        ...

    def config(self) -> dict[str, Any] | None:
        """Returns the ``quantization_config`` for ``config.json``; None leaves that file alone."""
        ...

    def tools(self) -> dict[str, str]:
        """Returns the versions of what decides the bytes besides torch and the model libraries."""
        ...


@runtime_checkable
class Quantizing(Scheme, Protocol):
    """A scheme that plans groups of the kind ``quantize``."""

    def convert(self, group: Group, read: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        """Returns the tensors of ``group``'s entries.

        They must have the dtypes and shapes that were planned, on the CPU, contiguous.

        Args:
            group: As planned.
            read: Returns the source's tensor, whole, in its own dtype. It must not be changed: what
                is made is compared with it.
        """
        ...

    def restored(self, group: Group, made: list[torch.Tensor]) -> torch.Tensor:
        """Returns the source's tensor as the quantized one stands for it, for the report of errors.

        Any float dtype, the source's shape; called after ``convert``.
        """
        ...


def module_of(name: str) -> str:
    """Returns the module of a tensor: its key without the last part, or the key if it has one."""
    return name.rpartition(".")[0] or name


def is_within(name: str, module: str) -> bool:
    """Tells whether the tensor ``name`` belongs to ``module`` or to one below it."""
    return name == module or name.startswith(f"{module}.")
