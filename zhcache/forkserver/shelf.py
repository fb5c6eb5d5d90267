"""Hides what the server has imported until the script imports it.

A script must find what ``python script.py`` would: a module of its own that shadows an installed
one, variables that it sets before it imports, ``sys.modules`` without what it never asked for. So
the modules lie on a shelf, and the first finder on ``sys.meta_path`` hands them out: each with all
that was imported before it ended, as its own import would have brought them. Before that it looks
whether an import now would find the same files and the same variables. Native libraries cannot be
imported twice into one process, so where it would not, the script is ended with the reason.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from zhcache.errors import UsageError
from zhcache.forkserver.preload import Record


class Shelf(MetaPathFinder):
    """The finder. One for each script, made in its process."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._modules = dict(record.modules)
        self._order = {name: number for number, name in enumerate(record.modules)}
        self._elsewhere: dict[str, str] = {}
        self._checked = self._repeated = -1
        self._seen_path: list[str] | None = None
        self._nearer: set[str] = set()

    def hide(self) -> None:
        """Takes the modules away and puts itself in their place."""
        for name, module in self._modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        warnings.filters[:] = self._record.filters  # pyright: ignore[reportIndexIssue]
        sys.meta_path.insert(0, self)

    def let_be(self) -> None:
        """Takes what was handed out away again, so that the interpreter's end passes it by.

        Taking a library apart object by object would copy all its pages first. Its own exit
        handlers have run by now, and the script's objects end all the same.
        """
        for name, module in self._record.modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns a spec that hands out a module of the shelf; None if another one is meant."""
        module = self._modules.get(fullname)
        if module is None:
            return None
        known: ModuleSpec | None = getattr(module, "__spec__", None)
        if known is None:
            return None
        if path is None:
            found = _search(fullname, self)
            if found is None or found.origin != known.origin:
                self._forget(fullname, "nothing" if found is None else str(found.origin))
                return found
        # Made by hand: nothing in here may import, since it would come back here.
        spec = ModuleSpec(fullname, _Handout(self, known), origin=known.origin)
        spec.submodule_search_locations = known.submodule_search_locations
        spec.has_location, spec.cached = known.has_location, known.cached
        return spec

    def hand_out(self, name: str) -> ModuleType:
        """Returns the module, and puts it and what its import would have brought in its place."""
        last, is_standard = self._order[name], _top(name) in sys.stdlib_module_names
        wanted = [
            other
            for other in self._modules
            if self._order[other] <= last
            and (not is_standard or _top(other) in sys.stdlib_module_names)
        ]
        self._forget_shadowed({_top(other) for other in wanted})
        if not is_standard:
            self._check_files(name)
            self._check_variables(name)
            self._repeat(name)
        module = self._modules[name]
        for other in wanted:
            if other in self._modules:
                found = sys.modules.setdefault(other, self._modules.pop(other))
                if other in self._record.unbound:
                    package, _, attribute = other.rpartition(".")
                    setattr(self._record.modules[package], attribute, found)
        if not self._modules and self in sys.meta_path:
            sys.meta_path.remove(self)
        return module

    def _forget(self, name: str, origin: str) -> None:
        self._elsewhere[name] = origin
        for other in [n for n in self._modules if n == name or n.startswith(f"{name}.")]:
            del self._modules[other]

    def _forget_shadowed(self, tops: set[str]) -> None:
        for top in tops & self._names_nearer():
            known = getattr(self._modules.get(top), "__spec__", None)
            found = _search(top, self) if known is not None else None
            if known is not None and (found is None or found.origin != known.origin):
                self._forget(top, str(found and found.origin))

    def _check_files(self, name: str) -> None:
        """Ends the script if what uses a module that it finds elsewhere would be handed out."""
        # What was imported before the other one does not use it.
        stage = self._record.stage_of.get(_top(name), 0)
        for other, origin in self._elsewhere.items():
            if self._record.stage_of.get(other, 0) <= stage:
                _refuse(
                    "{name} is already imported, but would find {other} in {origin} here",
                    hint="run it with `python` instead",
                    name=name,
                    other=other,
                    origin=origin,
                )

    def _names_nearer(self) -> set[str]:
        """Returns the names that lie in folders which were put before those of the imports."""
        if self._seen_path != sys.path:
            self._seen_path = list(sys.path)
            shared = [n for n, entry in enumerate(sys.path) if entry in self._record.path]
            before = sys.path[: max(shared, default=-1) + 1]
            self._nearer = {
                name for entry in before if entry not in self._record.path for name in _names(entry)
            }
        return self._nearer

    def _check_variables(self, name: str) -> None:
        """Ends the script if a variable that the imports read has another value now."""
        stage = self._record.stage_of[name]
        stages = self._record.stages[self._checked + 1 : stage + 1]
        if not stages:
            return
        now = dict(os.environ)
        reads = set[str]().union(*(one.reads for one in stages))
        if self._checked < self._record.native:
            reads |= self._record.unseen_reads(now)
        if names := self._record.differing(now, reads):
            _refuse(
                "the script changes {names} before it imports {name}, which is already imported",
                hint="set it outside the script, or run it with `python` instead",
                names=", ".join(names),
                name=name,
            )
        # What comes later of the same root may have read as much: it is looked at again.
        is_whole = name == self._record.last_of[stage]
        self._checked = stage if is_whole else stage - 1

    def _repeat(self, name: str) -> None:
        """Does once more what the imports did beside making modules."""
        stage = self._record.stage_of[name]
        for one in self._record.stages[self._repeated + 1 : stage + 1]:
            os.environ.update(one.writes)
            if one.filters:
                warnings.filters[:0] = one.filters  # pyright: ignore[reportIndexIssue]
                warnings._filters_mutated()  # pyright: ignore[reportAttributeAccessIssue]
            for stream, text in ((sys.stdout, one.out), (sys.stderr, one.err)):
                if stream is not None and text:
                    stream.write(text.decode("utf-8", "replace"))
        self._repeated = max(self._repeated, stage)


class _Handout(Loader):
    """Loads one module by taking it from the shelf; for all else it is the module's own loader."""

    def __init__(self, shelf: Shelf, known: ModuleSpec) -> None:
        self._shelf = shelf
        self._known = known

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns the module, which is complete."""
        return self._shelf.hand_out(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module back its own spec; its code has run."""
        module.__spec__ = self._known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._known.loader, name)


def _search(name: str, shelf: Shelf) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not shelf and (find := getattr(finder, "find_spec", None)) is not None:
            found = find(name, None)
            if found is not None:
                return found
    return None


def _names(folder: str) -> set[str]:
    try:
        return {entry.partition(".")[0] for entry in os.listdir(folder or ".")}  # noqa: PTH208
    except OSError:
        return set()


def _top(name: str) -> str:
    return name.partition(".")[0]


def _refuse(template: str, *, hint: str, **values: object) -> NoReturn:
    """Ends the process: an exception would be caught by scripts that can do without a library."""
    error = UsageError(template, hint=hint, **values)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    text = f"zhcache exec: {error.message}\nzhcache exec: {error.hint}\n"
    os.write(2, text.encode("utf-8", "surrogateescape"))
    os._exit(UsageError.exit_code)
