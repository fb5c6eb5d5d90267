"""Imports what scripts need, and keeps a record of what the imports have seen and said.

Imports are done root by root, from the bottom up. For each root the record has the modules it
brought, the variables it read and what it printed, so that a script that imports as much gets as
much: no module it has not asked for, the same words, and an error instead of a library that was
set up for another environment.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import ItemsView, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from zhcache.errors import NotFound, ZhcacheError
from zhcache.forkserver.facts import AT_IMPORT, AT_START, OURS
from zhcache.forkserver.untouched import untouched

ROOTS = (
    "numpy",
    "PIL.Image",
    "torch",
    "safetensors.torch",
    "huggingface_hub",
    "tokenizers",
    "transformers",
    "accelerate",
    "diffusers",
    "transformers:CLIPTokenizer",
    "transformers:CLIPTextModel",
    "transformers:T5EncoderModel",
    "diffusers:AutoencoderKL",
    "diffusers:UNet2DConditionModel",
    "diffusers:DiffusionPipeline",
    "diffusers:StableDiffusionPipeline",
    "diffusers:StableDiffusionXLPipeline",
    "zhcache:load_pipeline",
)
"""What is imported, dependencies first. After a colon: an attribute that is loaded if asked for."""

NEEDED = ("torch", "diffusers")
_LAST_NATIVE = "torch"
_TERMINAL = frozenset(("COLUMNS", "LINES"))
"""Read for the width of a menu that no script sees; they change with every window."""


@dataclass
class Stage:
    """What the import of one root did.

    Args:
        root: What was imported.
        reads: Names of variables that were looked up.
        writes: Variables that were set.
        filters: Warning filters that were added, the first one first.
        out: What was written to stdout.
        err: What was written to stderr.
    """

    root: str
    reads: set[str]
    writes: dict[str, str]
    filters: list[Any]
    out: bytes = b""
    err: bytes = b""


@dataclass
class Record:
    """What a server has imported. ``modules`` is in the order in which their imports ended."""

    environ: dict[str, str]
    path: list[str]
    stages: list[Stage] = field(default_factory=list)
    modules: dict[str, ModuleType] = field(default_factory=dict)
    stage_of: dict[str, int] = field(default_factory=dict)
    last_of: dict[int, str] = field(default_factory=dict)
    files: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    unbound: set[str] = field(default_factory=set)
    """Submodules that were taken out of their packages; bound again when they are handed out."""
    filters: list[Any] = field(default_factory=list)
    """Warning filters as they were before."""

    @property
    def native(self) -> int:
        """The number of the last root that loads libraries which read variables unseen."""
        return next(n for n, stage in enumerate(self.stages) if stage.root == _LAST_NATIVE)

    def differing(self, environ: dict[str, str], names: set[str]) -> list[str]:
        """Returns which of ``names`` have another value in ``environ`` than they had here."""
        return sorted(n for n in names if environ.get(n) != self.environ.get(n))

    def all_reads(self, environ: dict[str, str]) -> set[str]:
        """Returns every variable that may have counted, seen or unseen."""
        seen = set[str]().union(*(stage.reads for stage in self.stages))
        return seen | self.unseen_reads(environ)

    def unseen_reads(self, environ: dict[str, str]) -> set[str]:
        """Returns those that native libraries may have read."""
        either = {*environ, *self.environ}
        return {name for name in either if name.startswith((*AT_START, *AT_IMPORT))} - {OURS}

    def is_current(self) -> bool:
        """Whether every file that was imported is still the same."""
        return all(_mark(path) == mark for path, mark in self.files.items())


class _Walked(str):
    """A name that was met while walking over all of them, not asked for."""

    __slots__ = ()


class _Watched(type(os.environ)):  # pyright: ignore[reportUntypedBaseClass]
    """The environment while it is being watched: notes each name that is looked up."""

    reads: set[str] = set()  # noqa: RUF012 - one environment, one set

    def __getitem__(self, key: str) -> str:
        if type(key) is not _Walked:
            _Watched.reads.add(key)
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        # ``dict(os.environ)`` looks up each name it has met here. If that counted, a server would
        # serve one working folder alone, and one terminal: PWD, SHLVL and the like are among them.
        return map(_Walked, super().__iter__())

    def items(self) -> ItemsView[str, str]:
        # Who walks over all of them looks for a beginning; those are known (AT_IMPORT).
        return self.copy().items()

    def copy(self) -> dict[str, str]:
        return {self.decodekey(k): self.decodevalue(v) for k, v in self._data.items()}  # pyright: ignore


def preload(bare: set[str]) -> Record:
    """Imports all roots.

    Args:
        bare: Names of the modules that every interpreter has at its start.

    Raises:
        NotFound: torch or diffusers is not installed.
        ZhcacheError: Importing one of them failed.
    """
    record = Record(dict(os.environ), list(sys.path), filters=list(warnings.filters))
    plain = type(os.environ)
    counted = {*bare}
    packages: dict[str, set[str]] = {}
    with _Captured() as captured, contextlib.ExitStack() as rest:
        os.environ.__class__ = _Watched
        try:
            for number, root in enumerate(ROOTS):
                _Watched.reads = set()
                before, filtered = os.environ.copy(), list(warnings.filters)
                _import(root)
                if root == _LAST_NATIVE:
                    rest.enter_context(untouched())
                writes = dict(os.environ.copy().items() - before.items())
                added = [one for one in warnings.filters if one not in filtered]
                reads = _Watched.reads - _TERMINAL - {OURS}
                stage = Stage(root, reads, writes, added, *captured.take())
                record.stages.append(stage)
                for name, module in sys.modules.items():
                    if name not in counted:
                        counted.add(name)
                        record.stage_of[name] = number
                        if hasattr(module, "__path__"):
                            packages[name] = set(vars(module))
        finally:
            os.environ.__class__ = plain
    # A module is put at the end of sys.modules when its import ends, so this order is that order.
    record.modules = {n: m for n, m in sys.modules.items() if n not in bare and n != "__main__"}
    record.last_of = {record.stage_of[name]: name for name in record.modules}
    for name, attributes in packages.items():
        record.unbound |= _forget_later(record.modules[name], attributes)
    record.files = dict(_marks(record.modules))
    return record


def _forget_later(package: ModuleType, attributes: set[str]) -> set[str]:
    """Takes out of a package what later roots have put into it: its submodules, lazy names.

    Whoever asks for them imports them, and gets them with all that belongs to them.
    """
    is_lazy = type(package) is not ModuleType
    unbound = set()
    for name in set(vars(package)) - attributes:
        value, full = vars(package)[name], f"{package.__name__}.{name}"
        is_submodule = isinstance(value, ModuleType) and value.__name__ == full
        if is_submodule or is_lazy:
            del vars(package)[name]
        if is_submodule:
            unbound.add(full)
    return unbound


def _import(root: str) -> None:
    name, _, attribute = root.partition(":")
    try:
        module = import_module(name)
        if attribute:
            getattr(module, attribute)
    except ModuleNotFoundError as error:
        if name in NEEDED and error.name == name:
            raise NotFound(
                "{name} is not installed in {prefix}",
                hint="pip install 'zhcache[torch]'",
                name=name,
                prefix=sys.prefix,
            ) from error
        _failed(name, error)
    except Exception as error:  # noqa: BLE001 - foreign import code raises what it likes
        _failed(name, error)


def _failed(name: str, error: Exception) -> None:
    # What is not needed and cannot be imported here is the script's own business.
    if name in NEEDED:
        raise ZhcacheError(
            "importing {name} failed in {prefix}: {kind}: {reason}",
            hint="mend what `python -c 'import {name}'` says",
            name=name,
            prefix=sys.prefix,
            kind=type(error).__name__,
            reason=error,
        ) from error


class _Captured:
    """Descriptors 1 and 2 led into memory; handlers made meanwhile go on writing to them."""

    def __enter__(self) -> _Captured:
        self._kept = [os.dup(1), os.dup(2)]
        self._memory = [os.memfd_create("said"), os.memfd_create("said")]
        self._taken = [0, 0]
        for number, memory in enumerate(self._memory, 1):
            os.dup2(memory, number)
        return self

    def take(self) -> tuple[bytes, bytes]:
        """Returns what was written to each since the last call."""
        found = []
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        for number, memory in enumerate(self._memory):
            end = os.fstat(memory).st_size
            found.append(os.pread(memory, end - self._taken[number], self._taken[number]))
            self._taken[number] = end
        return found[0], found[1]

    def __exit__(self, *raised: object) -> None:
        for number, kept in enumerate(self._kept, 1):
            os.dup2(kept, number)
        for descriptor in (*self._kept, *self._memory):
            os.close(descriptor)


def _marks(modules: dict[str, ModuleType]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for module in modules.values():
        path: Any = getattr(module, "__file__", None)
        if isinstance(path, str) and Path(path).is_absolute() and (mark := _mark(path)):
            yield path, mark


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - thousands at each start; a Path costs more
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
