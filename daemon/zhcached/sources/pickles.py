"""Which files are pickle weights, which run code when they are read.

Judged by name alone, because that is what decides whether torch or transformers would unpickle a
file. A pickle beside safetensors is not needed and left out; a pickle that is all there is, is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from zhcache.errors import UnsafeWeights
from zhcache.protocol.names import RepoPath

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


def leave_out(wanted: Iterable[RepoPath], listing: Collection[str]) -> dict[RepoPath, str]:
    """Returns the pickles of ``wanted`` that nobody needs, with the reason.

    Args:
        wanted: The files that would be taken.
        listing: All files of the repository; safetensors count even where not wanted.

    Raises:
        UnsafeWeights: A wanted pickle has no safetensors that stand for it.
    """
    safe_folders = {_folder(path) for path in listing if path.endswith(".safetensors")}
    root_is_safe = "model_index.json" in listing or "" in safe_folders
    reasons: dict[RepoPath, str] = {}
    refused: list[RepoPath] = []
    for path in wanted:
        if is_training_state(path):
            reasons[path] = LEFT_OUT_TRAINING
        elif is_pickle(path, listing):
            folder = _folder(path)
            if folder in safe_folders or (folder == "" and root_is_safe):
                reasons[path] = LEFT_OUT_BESIDE
            else:
                refused.append(path)
    if refused:
        raise refusal(refused)
    return reasons


def refusal(paths: Collection[str]) -> UnsafeWeights:
    """Returns the error for weights that exist only as pickle."""
    first = min(paths)
    return UnsafeWeights(
        "{path} exists only as pickle, which runs code when it is read ({count} such files)",
        hint="convert it once on a machine you can lose: load it there with "
        "torch.load(weights_only=True), write it with safetensors.torch.save_file, then "
        "`zhcache import` the folder; if the rest is enough, add --exclude '{pattern}'",
        path=first,
        count=len(paths),
        pattern="*" + first[first.rfind(".") :],
    )


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
