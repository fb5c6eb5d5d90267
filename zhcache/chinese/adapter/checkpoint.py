"""An unfinished training on the disk: one safetensors file, replaced whole. Imports torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from zhcache.errors import IntegrityError, NoSpace, UsageError

FILE = "checkpoint.safetensors"
SCHEMA = 1


@dataclass(frozen=True)
class State:
    """Where a training stands.

    Attributes:
        step: How many steps were made.
        tensors: Of all that changes, by part and name: ``model/...``, ``average/...``,
            ``optimizer/NUMBER/NAME``.
        recipe: What the training is of; one that goes on has to have the same.
    """

    step: int
    tensors: Mapping[str, torch.Tensor]
    recipe: Mapping[str, Any]


def save(folder: Path, state: State) -> None:
    """Writes ``state`` in place of the one before: however this ends, one of the two is whole.

    Raises:
        NoSpace: It cannot be written.
    """
    from safetensors.torch import save_file

    scratch = folder / f".{FILE}"
    about = {"schema": SCHEMA, "step": state.step, "recipe": dict(state.recipe)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    try:
        save_file(tensors, scratch, metadata={"zhcache": json.dumps(about)})
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.rename(folder / FILE)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise NoSpace(
            "the training cannot be kept in {folder}: {reason}",
            hint="what was kept last is still there; make room, or name another folder by --work",
            folder=folder,
            reason=error,
        ) from None


def read(folder: Path) -> State | None:
    """Returns the state in ``folder``; None: there is none.

    Raises:
        IntegrityError: It cannot be read.
    """
    from safetensors import safe_open

    path = folder / FILE
    if not path.exists():
        return None
    try:
        # Safetensors' own handle has no types.
        opened: Any = safe_open(path, framework="pt")
        with opened as file:
            about = json.loads(file.metadata()["zhcache"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Of another format it is another recipe, which `check` refuses.
        return State(about["step"], tensors, {**about["recipe"], "format": about["schema"]})
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise spoilt(path, f"{type(error).__name__}: {error}") from None


def check(state: State, recipe: Mapping[str, Any], folder: Path) -> None:
    """Checks that a training goes on as it began.

    Raises:
        UsageError: Something differs.
    """
    recipe = {**recipe, "format": SCHEMA}
    names = sorted(state.recipe.keys() | recipe.keys())
    differ = [name for name in names if state.recipe.get(name) != recipe.get(name)]
    if differ:
        raise UsageError(
            "an unfinished training in {folder} is another: {differences}",
            hint="give what it was begun with, another --name, or --fresh to begin anew",
            folder=folder,
            differences="; ".join(
                f"{name}: {state.recipe.get(name)} there, {recipe.get(name)} here"
                for name in differ
            ),
        )


def sync_folder(folder: Path) -> None:
    """Has the names in ``folder`` survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def spoilt(path: Path, reason: str) -> IntegrityError:
    """Returns the error that says why an unfinished training cannot go on."""
    return IntegrityError(
        "the unfinished training in {path} cannot be read: {reason}",
        hint="--fresh begins anew",
        path=path,
        reason=reason,
    )
