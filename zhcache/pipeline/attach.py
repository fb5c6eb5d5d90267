"""Makes modules over arenas: a skeleton, its parameters in the arena, its buffers its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from zhcache.errors import IntegrityError, VersionMismatch
from zhcache.pipeline import mapping, private, skeleton, wrapping
from zhcache.pipeline.refusals import told
from zhcache.protocol.frames import close_all

if TYPE_CHECKING:
    from zhcache.protocol.residency import Arena, Table, Tensor

Hand = Callable[[str, list[str], list[str]], list[tuple["Arena", int]]]
"""Asks for arenas: on a device, of these components, filled anew where these keys are damaged."""

CPU = torch.device("cpu")


def shared(
    folder: Path, device: torch.device, wanted: list[str], hand: Hand
) -> dict[str, torch.nn.Module]:
    """Returns the components ``wanted``, over arenas that ``hand`` asks the daemon for.

    Under ``share = "group"`` others may have written into a GPU's memory: what does not hold its
    checksum is asked for once more, and then filled anew.

    Raises:
        IntegrityError: The second ones do not hold either.
        ZhcacheError: As ``components``, and what the daemon reported.
    """
    place = "cpu" if device.type == "cpu" else _uuid(device)
    broken: list[str] = []
    for _ in range(2):
        arenas = hand(place, wanted, broken)
        try:
            mapped = mapping.map_all(arenas)
        finally:
            close_all([fd for _, fd in arenas])
        broken = mapping.damaged(mapped)
        if not broken:
            return _over(folder, mapped)
        # Else both would be on the device at once.
        del mapped
    raise _changed(broken)


def components(folder: Path, arenas: Sequence[tuple[Arena, int]]) -> dict[str, torch.nn.Module]:
    """Returns each arena's component by name, ready to be given to ``from_pretrained``.

    Args:
        folder: The pipeline's folder.
        arenas: With their descriptors, which stay the caller's and may be closed afterwards.

    Raises:
        IntegrityError: What came is not what was promised.
        VersionMismatch: This environment's libraries make another module of the component.
        ZhcacheError: A GPU's driver refused.
    """
    mapped = mapping.map_all(arenas)
    if broken := mapping.damaged(mapped):
        raise _changed(broken)
    return _over(folder, mapped)


def _over(folder: Path, mapped: mapping.Mapped) -> dict[str, torch.nn.Module]:
    with told(folder):
        return {
            arena.table.component: module(folder / arena.table.component, arena.table, flat)
            for arena, flat in mapped
        }


def _uuid(device: torch.device) -> str:
    from zhcache.pipeline import cuda

    return cuda.uuid_of(device)


def _changed(keys: list[str]) -> IntegrityError:
    return IntegrityError(
        "somebody wrote into the weights in the arenas {keys}",
        hint="use share = 'uid' in the daemon's configuration; zhcache stop lets them go",
        keys=", ".join(keys),
    )


def module(folder: Path, table: Table, flat: torch.Tensor) -> torch.nn.Module:
    """Returns the module that ``table`` describes, over ``flat``.

    Args:
        folder: The component's folder.
        table: What lies where.
        flat: ``(bytes,) uint8``; kept alive by every parameter.

    Raises:
        IntegrityError: A tensor would lie outside the memory.
        VersionMismatch: As ``components``.
    """
    dtype = getattr(torch, table.dtype)
    made = skeleton.build(folder, table.library, table.class_name, dtype)
    _check_names(made, table)
    parts = dict(made.named_modules(remove_duplicate=False))
    views = {entry.name: _view(entry, flat) for entry in table.tensors}
    owners: dict[str, torch.Tensor] = {}
    for entry in _own(table):
        owners[entry.name] = tensor = _owner(entry, views[entry.name], parts, table)
        _put(parts, entry.name, tensor, entry.kind)
    for name, wrapped in table.wrapped.items():
        inner = {field: views[part] for field, part in wrapped.tensors.items() if part in views}
        whole = wrapping.rebuilt(name, wrapped, inner)
        owners[name] = tensor = _parameter(name, whole, parts, table)
        _put(parts, name, tensor, "parameter")
    kinds = _kinds(table)
    for alias, name in table.aliases.items():
        _put(parts, alias, owners[name], kinds[name])
    if mapping.is_read_only(flat):
        private.guard(made)
    return made


def _view(entry: Tensor, flat: torch.Tensor) -> torch.Tensor:
    dtype = getattr(torch, entry.dtype)
    extent = sum((n - 1) * step for n, step in zip(entry.shape, entry.strides, strict=True)) + 1
    end = entry.offset + (extent * dtype.itemsize if 0 not in entry.shape else 0)
    if entry.offset % dtype.itemsize or not 0 <= entry.offset <= end <= flat.numel():
        raise IntegrityError(
            "{name} would lie at {offset} of {size} bytes",
            name=entry.name,
            offset=entry.offset,
            size=flat.numel(),
        )
    # No view of ``flat``: views share a version counter, and autograd would take a change of one
    # weight for a change of all.
    made = torch.empty(0, dtype=dtype, device=flat.device)
    start = flat.storage_offset() + entry.offset // dtype.itemsize
    return made.set_(flat.untyped_storage(), start, entry.shape, entry.strides)


def _owner(
    entry: Tensor, view: torch.Tensor, parts: Mapping[str, torch.nn.Module], table: Table
) -> torch.Tensor:
    if entry.kind == "buffer":
        return view.clone()
    if entry.kind == "attribute":
        return view.to(CPU, copy=True)
    return _parameter(entry.name, view, parts, table)


def _parameter(
    name: str, tensor: torch.Tensor, parts: Mapping[str, torch.nn.Module], table: Table
) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    built = parts[path]._parameters[leaf]
    if built is None or built.shape != tensor.shape:
        raise _differs(table, f"{name} is {list(tensor.shape)}")
    return torch.nn.Parameter(tensor, requires_grad=built.requires_grad)


def _put(parts: Mapping[str, torch.nn.Module], name: str, tensor: torch.Tensor, kind: str) -> None:
    path, _, leaf = name.rpartition(".")
    part = parts[path]
    if kind == "buffer" and leaf in part._buffers:
        part._buffers[leaf] = tensor
    else:
        setattr(part, leaf, tensor)


def _own(table: Table) -> list[Tensor]:
    """Returns those tensors that are the module's own, not parts of one."""
    parts = {part for wrapped in table.wrapped.values() for part in wrapped.tensors.values()}
    return [entry for entry in table.tensors if entry.name not in parts]


def _kinds(table: Table) -> dict[str, str]:
    own = {entry.name: entry.kind for entry in _own(table)}
    return {**own, **dict.fromkeys(table.wrapped, "parameter")}


def _check_names(made: torch.nn.Module, table: Table) -> None:
    """Refuses a table that does not name exactly the tensors of ``made``."""
    built = {name: "parameter" for name, _ in made.named_parameters(remove_duplicate=False)}
    for name, _ in made.named_buffers(remove_duplicate=False):
        built[name] = "buffer"
    kinds = _kinds(table)
    told = kinds | {alias: kinds.get(name, "") for alias, name in table.aliases.items()}
    told = {name: kind for name, kind in told.items() if kind != "attribute"}
    if built == told:
        return
    odd = sorted(built.items() ^ told.items())[:3]
    raise _differs(table, ", ".join(f"{kind} {name}" for name, kind in odd))


def _differs(table: Table, what: str) -> VersionMismatch:
    def spelt(versions: Mapping[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))

    return VersionMismatch(
        "{component} was laid out with {theirs}; this environment has {ours}, which make another"
        " module of it: {what}",
        hint="bring both environments to the same versions, or use mode='resident'",
        component=table.component,
        theirs=spelt(table.versions),
        ours=spelt(skeleton.versions()),
        what=what,
    )
