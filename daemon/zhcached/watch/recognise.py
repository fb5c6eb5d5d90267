"""Which of what lies in a watched folder are models, and what each is called. Pure.

A cache of huggingface_hub (``models--O--N/snapshots/COMMIT``), one of ModelScope's client
(``O--N/snapshots/BRANCH``, before that ``O/N`` with its marks), plain folders ``ORG/NAME`` and
``NAME``, or the watched folder itself is one of these. Names follow ``zhcache.caches``, which
recognises the same for ``zhcache import``.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zhcache.caches import modelscope
from zhcache.caches.found import FOREIGN_NAMES
from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.names import (
    LOCAL,
    RepoId,
    is_commit,
    parse_path,
    parse_repo,
    parse_revision,
    printable,
    repo_of_file,
)
from zhcached.convert import single_header
from zhcached.sources import pickles
from zhcached.store.blobs import Identity
from zhcached.watch.tree import Tree

MAX_MODELS = 1000
MAX_FILES = 10_000

_PARTIAL = (
    ".incomplete", ".part", ".partial", ".aria2", ".tmp", ".crdownload", ".download", ".filepart",
    ".!qb", ".!ut", ".lock",
)  # fmt: skip
_RSYNC = re.compile(r"\..+\.[A-Za-z0-9]{6}")
# While model_index.json is not there yet, these tell a pipeline from an owner with models.
_COMPONENTS = frozenset({
    "unet", "transformer", "transformer_2", "vae", "vqvae", "text_encoder", "text_encoder_2",
    "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3", "scheduler", "image_encoder",
    "feature_extractor", "safety_checker", "prior", "controlnet", "movq",
})  # fmt: skip
_HOPS = 4

Kind = Literal["hub", "scope", "plain", "checkpoint"]
Read = Callable[[str], bytes]
"""Returns the first bytes of a small file of the tree; raises OSError or ZhcacheError."""


@dataclass(frozen=True)
class Held:
    """A file of a model: where it really lies below the watched folder, and its inode."""

    where: str
    identity: Identity


@dataclass
class Model:
    """One model in a watched folder.

    Attributes:
        where: Its folder, relative to the watched one.
        repo: What it is called.
        kind: Whose layout it has.
        commit: Its commit where the layout knows one.
        revision: The branch or tag that points at it.
        files: By path in the repository, links followed inside the watched folder.
        skipped: What is there and cannot be taken, and why.
        unfinished: Files that some program still writes, by their names.
        is_linkable: Whether all files are blobs of a content-addressed cache.
    """

    where: str
    repo: RepoId
    kind: Kind
    commit: str | None = None
    revision: str | None = None
    files: dict[str, Held] = field(default_factory=dict[str, Held])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    unfinished: dict[str, Identity] = field(default_factory=dict[str, Identity])
    is_linkable: bool = False

    def fingerprint(self) -> str:
        """Returns a digest of names, inodes, sizes and times: while it stays, nothing changed.

        Without the inodes' own times, which change when a file gets a hard link elsewhere: taking
        in one model of a cache must not stir the others that share files with it.
        """
        digest = hashlib.sha256(f"{self.repo}\0{self.commit}\0{self.revision}\n".encode())
        inodes = {path: held.identity for path, held in self.files.items()} | self.unfinished
        for path, identity in sorted(inodes.items()):
            said = f"{path}\0{identity.size} {identity.inode} {identity.mtime_ns}\n"
            digest.update(said.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


@dataclass
class Recognised:
    """What one look makes of a watched folder.

    Attributes:
        models: At most ``MAX_MODELS``; a file of weights directly in the watched folder is one too,
            a whole model in one file.
        refused: Folders that look like a model and cannot be one, and why.
    """

    models: list[Model] = field(default_factory=list[Model])
    refused: dict[str, ZhcacheError] = field(default_factory=dict[str, ZhcacheError])


def recognise(tree: Tree, folder: Path, read: Read) -> Recognised:
    """Returns the models of a watched folder.

    Args:
        tree: What lies in it.
        folder: Its own path.
        read: Reads refs.
    """
    walk = _Walk(tree, str(folder), read)
    if not walk.itself(folder.name):
        walk.root("")
        walk.checkpoints()
    if len(walk.found.models) > MAX_MODELS:
        walk.found.refused[""] = UsageError(
            "of {count} models in it only {limit} are taken in",
            hint="watch the folders in it one by one",
            count=len(walk.found.models),
            limit=MAX_MODELS,
        )
        del walk.found.models[MAX_MODELS:]
    return walk.found


def is_partial(name: str) -> bool:
    """Tells whether a file's name says that some program has not finished it."""
    return name.lower().endswith(_PARTIAL) or _RSYNC.fullmatch(name) is not None


class _Walk:
    def __init__(self, tree: Tree, base: str, read: Read) -> None:
        self.tree = tree
        self.base = base.rstrip("/") + "/"
        self.read = read
        self.found = Recognised()
        self.inner = tree.children()
        # All of the tree by folder: a look at one folder must not be a look at all.
        self.by_folder: dict[str, list[str]] = defaultdict(list)
        for path in (*tree.files, *tree.links, *tree.odd):
            folder, _, base = path.rpartition("/")
            self.by_folder[folder].append(base)

    def itself(self, name: str) -> bool:
        """Takes the watched folder as one repository, if it is one."""
        if "snapshots" in self.inner[""]:
            return self._hub("", name) or self._scope("", name)
        if self._is_model(""):
            self._plain("", _named(f"{LOCAL}/{name}"), name)
            return True
        return False

    def root(self, top: str, depth: int = 0) -> None:
        """Takes what lies in a cache's root, or in a folder of models."""
        for name in self.inner[top]:
            where = _join(top, name)
            inner = self.inner[where]
            if "snapshots" in inner and (self._hub(where, name) or self._scope(where, name)):
                continue
            if name in ("hub", "models") and depth < 2 and not self._is_model(where):
                self.root(where, depth + 1)
            elif self._is_model(where) or not _COMPONENTS.isdisjoint(inner):
                self._plain(where, _named(f"{LOCAL}/{name}"), name)
            else:
                for own in inner:
                    self._owned(where, name, own)

    def checkpoints(self) -> None:
        """Takes single files of weights that lie directly in the watched folder."""
        for name in self.by_folder[""]:
            identity = self.tree.files.get(name)
            if identity is not None and name.endswith(".ckpt"):
                self.found.refused[name] = single_header.pickled(name)
            if identity is None or not name.endswith(".safetensors") or is_partial(name):
                continue
            try:
                repo = repo_of_file(parse_path(name))
            except ZhcacheError:
                self._refuse(name, name)
            else:
                files = {name: Held(name, identity)}
                self.found.models.append(Model(name, repo, "checkpoint", files=files))

    def _owned(self, outer: str, owner: str, name: str) -> None:
        where = _join(outer, name)
        is_scope = any(mark in self.by_folder[where] for mark in modelscope.LEGACY_MARKS)
        if not (self._is_model(where) or not _COMPONENTS.isdisjoint(self.inner[where])):
            return
        if is_scope and (repo := modelscope.legacy_repo_of(owner, name)):
            model = Model(where, repo, "scope", revision="master")
            self._collect(model, where)
        else:
            self._plain(where, _named(f"{owner}/{name}"), f"{owner}/{name}")

    def _is_model(self, folder: str) -> bool:
        names = self.by_folder[folder]
        if "model_index.json" in names or "adapter_config.json" in names:
            return True
        return "config.json" in names and any(_is_weights(name) for name in names)

    def _plain(self, where: str, repo: RepoId | None, name: str) -> None:
        if repo is None:
            self._refuse(where, name)
        else:
            self._collect(Model(where, repo, "plain"), where)

    def _refuse(self, where: str, name: str) -> None:
        self.found.refused[where] = UsageError(
            "{name} cannot be a model's name",
            hint="rename it: letters, digits, '.', '_' and '-' only",
            name=printable(name),
        )

    def _hub(self, where: str, name: str) -> bool:
        try:
            repo = RepoId.from_folder(name)
        except UsageError:
            return False
        refs = self._refs(_join(where, "refs"))
        blobs = (_join(where, "blobs"), _join(where.rpartition("/")[0], "blobs"))
        for commit in self.inner[_join(where, "snapshots")]:
            if not is_commit(commit):
                continue
            model = Model(_join(where, "snapshots", commit), repo, "hub", commit, refs.get(commit))
            self._collect(model, model.where)
            places = {held.where.rpartition("/")[0] for held in model.files.values()}
            model.is_linkable = bool(places) and places.issubset(blobs)
        return True

    def _refs(self, folder: str) -> dict[str, str]:
        """Returns for each commit the name that points at it; ``main`` before any other."""
        named: dict[str, str] = {}
        for path in sorted(p for p in self.tree.files if p.startswith(f"{folder}/")):
            try:
                name = parse_revision(path[len(folder) + 1 :])
                commit = self.read(path).decode("ascii", "replace").strip()
            except (OSError, ZhcacheError):
                continue
            if name == "main" or commit not in named:
                named[commit] = name
        return named

    def _scope(self, where: str, name: str) -> bool:
        repo = modelscope.repo_of(name)
        if repo is None:
            return False
        for branch in self.inner[_join(where, "snapshots")]:
            try:
                revision = parse_revision(branch)
            except UsageError:
                continue
            model = Model(_join(where, "snapshots", branch), repo, "scope", revision=revision)
            self._collect(model, model.where)
        return True

    def _collect(self, model: Model, folder: str) -> None:
        for path, where in self._below(folder, model.where):
            name = path.rpartition("/")[2]
            if where in self.tree.odd:
                if name not in FOREIGN_NAMES:
                    model.skipped[path] = self.tree.odd[where]
                continue
            real, reason = self._real(where)
            if real is None:
                model.skipped[path] = reason
            elif is_partial(name):
                model.unfinished[path] = self.tree.files[real]
            else:
                try:
                    parse_path(path)
                except ZhcacheError:
                    model.skipped[path] = "has a name that no repository may have"
                else:
                    model.files[path] = Held(real, self.tree.files[real])
        # aria2 sets all of a file aside at once: only the note beside it says that it is not whole.
        for note in [path for path in model.unfinished if path.endswith(".aria2")]:
            if held := model.files.pop(note.removesuffix(".aria2"), None):
                model.unfinished[note.removesuffix(".aria2")] = held.identity
        if len(model.files) > MAX_FILES:
            self.found.refused[model.where] = UsageError(
                "a model has at most {limit} files, and there are {count}",
                limit=MAX_FILES,
                count=len(model.files),
            )
        elif model.kind == "plain" or _is_worth(model):
            self.found.models.append(model)

    def _below(self, folder: str, top: str) -> Iterator[tuple[str, str]]:
        for name in self.by_folder[folder]:
            where = _join(folder, name)
            yield where[len(top) + 1 :] if top else where, where
        for name in self.inner[folder]:
            yield from self._below(_join(folder, name), top)

    def _real(self, where: str) -> tuple[str | None, str]:
        """Returns the plain file that a path leads to, links inside the folder followed."""
        for _ in range(_HOPS):
            if where in self.tree.files:
                return where, ""
            if (target := self.tree.links.get(where)) is None:
                return None, "leads nowhere"
            if target.startswith(self.base):
                where = posixpath.normpath(target.removeprefix(self.base))
            else:
                where = posixpath.normpath(_join(where.rpartition("/")[0], target))
            if where.startswith(("../", "/")) or where == "..":
                return None, "leads out of the watched folder"
        return None, "leads in a circle"


def _is_worth(model: Model) -> bool:
    """Tells whether a cache's snapshot is a model, or on the way to be one."""
    names = [*model.files, *model.unfinished, *model.skipped]
    top = {"model_index.json", "adapter_config.json"}.intersection(names)
    return bool(top) or any(_is_weights(path.rpartition("/")[2]) for path in names)


def _is_weights(name: str) -> bool:
    whole = name
    while is_partial(whole) and "." in whole:
        whole = whole.rpartition(".")[0].removeprefix(".")
    return whole.endswith((".safetensors", ".safetensors.index.json")) or pickles.is_pickle(whole)


def _named(text: str) -> RepoId | None:
    try:
        return parse_repo(text)
    except UsageError:
        return None


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
