"""Which files are pickle weights, which run code when they are read.

Judged by name alone, because that is what decides whether torch or transformers would unpickle a
file. A pickle beside safetensors is not needed and left out; a pickle that is all there is, is
refused, or on request converted to safetensors, which take its place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from zhcache.errors import UnsafeWeights
from zhcache.protocol.names import RepoPath
from zhcached.sources.pipeline_files import weight_name

_PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".pkl", ".pickle")
# `.bin` means nothing by itself: OpenVINO and vocabularies use it too. These stems are what
# torch.save writes: diffusers, transformers, peft, IP-Adapter, LoRA and textual inversion.
_PICKLE_BIN = re.compile(r"pytorch|adapter|lora|learned_embeds|^(model|consolidated)([.-]|$)")
_TRAINING = re.compile(
    r"(optimizer|scheduler|training_args|scaler|rng_state\w*|random_states\w*)(_\d+)?"
    r"\.(bin|pt|pth|pkl)"
)

LEFT_OUT_BESIDE = "pickle beside safetensors"
LEFT_OUT_TRAINING = "training state, not weights"
CONVERTED = "converted to safetensors"
ONLY_PICKLE = "exists only as pickle, which runs code when it is read"


class Judged(NamedTuple):
    """What becomes of pickles.

    Attributes:
        left_out: Those that a snapshot will not hold, with the reason.
        converted: Those of them that are fetched all the same, to be converted.
    """

    left_out: dict[RepoPath, str]
    converted: list[RepoPath]


def is_training_state(path: str) -> bool:
    """Tells whether ``path`` is a trainer's own checkpoint, which no pipeline loads."""
    return _TRAINING.fullmatch(path.rpartition("/")[2]) is not None


def is_pickle(path: str, listing: Collection[str] = ()) -> bool:
    """Tells whether ``path`` is a pickle; ``listing`` tells OpenVINO's ``.bin`` by its ``.xml``."""
    name = path.rpartition("/")[2].lower()
    if name.endswith(_PICKLE_SUFFIXES):
        return True
    if not name.endswith(".bin") or path[: -len(".bin")] + ".xml" in listing:
        return False
    return _PICKLE_BIN.search(name.removesuffix(".bin")) is not None


def judge(
    wanted: Iterable[RepoPath],
    listing: Collection[str],
    *,
    allowed: bool = False,
    here: Collection[str] = (),
) -> Judged:
    """Returns the pickles of ``wanted`` that a snapshot will not hold.

    Args:
        wanted: The files that would be taken.
        listing: All files of the repository; safetensors count even where not wanted.
        allowed: Pickles without safetensors are converted, and not refused.
        here: Pickles that were converted before; what they became is here.

    Raises:
        UnsafeWeights: A wanted pickle has no safetensors that stand for it; or two would become
            one file.
    """
    safe_folders = {_folder(path) for path in listing if path.endswith(".safetensors")}
    root_is_safe = "model_index.json" in listing or "" in safe_folders
    left_out: dict[RepoPath, str] = {}
    needed: list[RepoPath] = []
    indexes: list[RepoPath] = []
    for path in wanted:
        is_beside = _folder(path) in safe_folders or (_folder(path) == "" and root_is_safe)
        if is_training_state(path):
            left_out[path] = LEFT_OUT_TRAINING
        elif is_pickle(path, listing):
            if is_beside:
                left_out[path] = LEFT_OUT_BESIDE
            elif path in here:
                left_out[path] = CONVERTED
            else:
                needed.append(path)
        elif is_index(path) and not is_beside:
            indexes.append(path)
    if needed and not allowed:
        raise refusal(needed)
    # An index goes the way of its shards, or stays what it is.
    left_out.update(dict.fromkeys((path for path in indexes if path in here), CONVERTED))
    needed += [path for path in indexes if allowed and path not in here]
    left_out.update(dict.fromkeys(needed, CONVERTED))
    _check_apart(needed)
    return Judged(left_out, needed)


def _check_apart(paths: Iterable[RepoPath]) -> None:
    by_target: dict[RepoPath, RepoPath] = {}
    for path in paths:
        if (first := by_target.setdefault(safe_path(path), path)) != path:
            raise UnsafeWeights(
                "{first} and {second} would both become {path}",
                hint="leave one of them out: --exclude '{second}'",
                first=first,
                second=path,
                path=safe_path(path),
            )


def is_index(path: str) -> bool:
    """Tells whether ``path`` is the index of shards that are pickles."""
    found = weight_name(path.rpartition("/")[2])
    return found is not None and found.is_index and found.suffix == "bin"


def safe_path(path: str) -> RepoPath:
    """Returns what a pickle, or the index of its shards, is called once it is safetensors.

    As diffusers and transformers name them: ``pytorch_model.bin`` is ``model.safetensors``.
    """
    folder, slash, name = path.rpartition("/")
    if found := weight_name(name):
        name = name.replace(".bin", ".safetensors", 1)
        if found.stem == "pytorch_model":
            name = name.removeprefix("pytorch_")
    else:
        name = name[: name.rindex(".")] + ".safetensors"
    return RepoPath(folder + slash + name)


def refusal(paths: Collection[str]) -> UnsafeWeights:
    """Returns the error for weights that exist only as pickle."""
    first = min(paths)
    return UnsafeWeights(
        "{path} exists only as pickle, which runs code when it is read ({count} such files)",
        hint="`zhcache prefetch REPO --allow-pickle` converts them in a sandbox, and only "
        "safetensors are kept; if the rest is enough, add --exclude '{pattern}'",
        path=first,
        count=len(paths),
        pattern="*" + first[first.rfind(".") :],
    )


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
