"""What kind of prompt model a held snapshot is, by its manifest and its small files.

Three are known: a translator (Marian, at the root), a Chinese encoder (the text encoder and
tokenizer of a pipeline) and an adapter. Nothing of transformers is imported here; what their
weights are worth is for the worker that loads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from zhcache.chinese.adapter import format as adapter
from zhcache.errors import Incomplete, UsageError
from zhcached.errors import StoreDamaged
from zhcached.residency.arena.contents import INDEX
from zhcached.store.snapshots import Manifest, ManifestFile
from zhcached.store.store import Store

MAX_JSON = 2**20
"""Bytes of a configuration; real ones have a few thousand."""

MARKERS = {
    "translate": "source.spm",
    "encoder": "text_encoder/config.json",
    "adapter": adapter.FILE,
}
"""The file by which each kind is found; only then it is looked at closer."""

_SAFE = ".safetensors"
_TRANSLATOR = ("config.json", "source.spm", "target.spm", "vocab.json")


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt model.

    Attributes:
        route: What it does with Chinese texts.
        bytes: Of its weights' files.
        about: What an adapter says of itself.
    """

    route: Literal["encoder", "adapter", "translate"]
    bytes: int
    about: adapter.Described | None = None


def known(store: Store, manifest: Manifest) -> Known:
    """Returns what a snapshot is.

    Raises:
        UsageError: It is no prompt model.
        Incomplete: It lacks files.
        IntegrityError: It is an adapter that does not say what it is.
        VersionMismatch: It is an adapter of a later format.
        StoreDamaged: A file cannot be read from the store.
    """
    files = {file.path: file for file in manifest.files}
    if (marker := files.get(adapter.FILE)) is not None:
        return _adapter(store, manifest, marker)
    if config(store, manifest, "text_encoder/config.json").get("model_type") == "bert":
        return _whole("encoder", manifest, ("text_encoder/", "tokenizer/"), ())
    if config(store, manifest, "config.json").get("model_type") == "marian":
        return _whole("translate", manifest, ("",), _TRANSLATOR)
    raise UsageError(
        "{repo} reads no prompts: it is no translator of the Marian kind, no pipeline with a"
        " BertModel as its text encoder, and no adapter",
        hint="chinese='auto' takes what fits of the store",
        repo=manifest.repo,
    )


def reads_prompts(store: Store, manifest: Manifest) -> bool:
    """Whether a snapshot is there to read prompts for others, rather than to be run itself.

    A whole pipeline with a Chinese encoder may do both, and is run.

    Raises:
        Incomplete: It is a prompt model that lacks files.
        IntegrityError: It is an adapter that does not say what it is.
        VersionMismatch: It is an adapter of a later format.
        StoreDamaged: A file cannot be read from the store.
    """
    if _is_pipeline(store, manifest):
        return False
    try:
        known(store, manifest)
    except UsageError:
        return False
    return True


def _is_pipeline(store: Store, manifest: Manifest) -> bool:
    """Whether a snapshot has an index, and something of each component that the index names."""
    folders = {file.path.partition("/")[0] for file in manifest.files}
    named = [
        name
        for name, kind in config(store, manifest, INDEX).items()
        if isinstance(kind, list) and all(isinstance(one, str) for one in kind)
    ]
    return bool(named) and all(name in folders for name in named)


def config(store: Store, manifest: Manifest, path: str) -> dict[str, Any]:
    """Returns a JSON file of a snapshot; nothing where it is not there or is no table.

    Raises:
        StoreDamaged: It cannot be read from the store.
    """
    file = next((file for file in manifest.files if file.path == path), None)
    if file is None or file.size > MAX_JSON:
        return {}
    try:
        return msgspec.json.decode(_read(store, manifest, file), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _adapter(store: Store, manifest: Manifest, marker: ManifestFile) -> Known:
    content = _read(store, manifest, marker) if marker.size <= adapter.MAX_BYTES else b""
    about = adapter.parse(content, f"{manifest.repo}/{adapter.FILE}")
    needed = (adapter.WEIGHTS, f"{adapter.ENCODER}/config.json", f"{adapter.ENCODER}/model{_SAFE}")
    found = _whole("adapter", manifest, ("", f"{adapter.ENCODER}/"), needed)
    return Known(found.route, found.bytes, about)


def _whole(
    route: Literal["encoder", "adapter", "translate"],
    manifest: Manifest,
    folders: Iterable[str],
    needed: Iterable[str],
) -> Known:
    paths = {file.path for file in manifest.files}
    weights = [
        file.size
        for file in manifest.files
        if file.path.endswith(_SAFE) and _folder(file.path) in folders
    ]
    lacking = [name for name in needed if name not in paths]
    lacking += [f"{folder}*" for folder in folders if not any(map(_within(folder), paths))]
    if not weights:
        lacking.append(f"*{_SAFE}")
    if lacking:
        raise Incomplete(
            "{repo} cannot be read for prompts, it lacks {files}",
            hint="`zhcache prefetch {repo}` fetches them; --allow-pickle converts weights that"
            " exist only as pickle",
            repo=manifest.repo,
            files=", ".join(lacking),
        )
    return Known(route, sum(weights))


def _folder(path: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return folder + slash


def _within(folder: str) -> Any:
    return lambda path: path.startswith(folder)


def _read(store: Store, manifest: Manifest, file: ManifestFile) -> bytes:
    try:
        return store.layout.blob(file.sha256).read_bytes()
    except OSError as error:
        raise StoreDamaged(reason=f"{file.path} of {manifest.repo}: {error}") from error
