"""What a checkpoint becomes together with the small files of the model it was made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from zhcache.errors import IntegrityError, UsageError
from zhcache.protocol.conversion import Extract
from zhcache.protocol.names import printable
from zhcached.convert.single_header import Tensors
from zhcached.convert.single_kinds import V_PREDICTION, ZERO_SNR, Kind, Piece, Way, size_of
from zhcached.convert.weights import base
from zhcached.sources.pipeline_files import weight_name
from zhcached.store.snapshots import Manifest, ManifestFile

INDEX = "model_index.json"
REPORT = "zhcache-checkpoint.json"
"""The file of the snapshot that tells of what it was made."""

SCHEDULER = "scheduler/scheduler_config.json"
OPTIONAL = ("safety_checker",)
"""Components that no checkpoint holds; diffusers' ``from_single_file`` goes without them too."""

INCLUDE = (INDEX, "*/*.json", "*/*.txt", "*/*.model")
EXCLUDE = ("*.index.json", *(f"{name}/*" for name in OPTIONAL))
"""What is fetched of a model that is not here: configurations, tokenizers, scheduler."""

_SMALL = (".json", ".txt", ".model")
_CLASSES: Mapping[Way, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "clip": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "open_clip": ("CLIPTextModel", "CLIPTextModelWithProjection"),
}
_NAMES: Mapping[Way, str] = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "clip": "model.safetensors",
    "open_clip": "model.safetensors",
}

Classes = Mapping[str, tuple[str, str]]
"""Of a pipeline: component -> (library, class)."""


class File(msgspec.Struct, frozen=True):
    """A checkpoint as it lies at its owner's."""

    name: str
    size: int


class Extraction(msgspec.Struct, frozen=True):
    """One component that a worker takes out of a checkpoint."""

    file: File
    like: str
    piece: Piece
    library: str
    class_name: str
    bytes: int

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"{self.piece.component} of {self.file.name}"

    @property
    def output(self) -> str:
        """What the component's file of weights is called."""
        return _NAMES[self.piece.way]

    def request(self, folder: str) -> Extract:
        """Returns what the worker is asked, with configurations in ``folder``."""
        return Extract(
            name=self.file.name,
            size=self.file.size,
            folder=folder,
            like=self.like,
            component=self.piece.component,
            library=self.library,
            class_name=self.class_name,
            way=self.piece.way,
            prefix=self.piece.prefix,
            bytes=self.bytes,
            output=self.output,
        )


def work(
    kind: Kind, file: File, tensors: Tensors, like: Manifest, classes: Classes
) -> list[Extraction]:
    """Returns what workers take out of the file.

    Raises:
        UsageError: The pipeline it is to be like has other components than the file.
    """
    made: list[Extraction] = []
    for piece in kind.pieces:
        library, class_name = classes.get(piece.component, ("", "none"))
        if class_name not in _CLASSES[piece.way]:
            raise _unlike(file, kind, like, f"its {piece.component} is {class_name}")
        size = size_of(tensors, piece)
        made.append(Extraction(file, like.repo, piece, library, class_name, size))
    held = {piece.component for piece in kind.pieces}
    for name in classes:
        if name not in held and name not in OPTIONAL and _is_model(like, name):
            raise _unlike(file, kind, like, f"it has a {name}, which the file does not hold")
    return made


def taken(like: Manifest, classes: Classes) -> list[ManifestFile]:
    """Returns the small files that are taken over as they are."""
    return [
        file
        for file in like.files
        if _component(file.path) in classes
        and _component(file.path) not in OPTIONAL
        and _is_small(file.path)
    ]


def lacking(like: Manifest, classes: Classes) -> str | None:
    """Returns a small file that the snapshot lacks, or None."""
    here = {_component(file.path) for file in taken(like, classes)}
    wanted = [name for name in classes if name not in OPTIONAL]
    if bare := next((name for name in wanted if name not in here), None):
        return f"{bare}/*.json"
    lost = (path for path in like.left_out if _component(path) in wanted and _is_small(path))
    return next(lost, None)


def index(content: bytes) -> bytes:
    """Returns a pipeline's index without the components that no checkpoint has.

    Raises:
        ValueError: It is no JSON of an object.
    """
    entries = msgspec.json.decode(content, type=dict[str, Any])
    for name in OPTIONAL:
        if name in entries:
            entries[name] = [None, None]
            entries["requires_safety_checker"] = False
    return msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n"


def check_scheduler(file: File, tensors: Tensors, like: Manifest, scheduler: bytes) -> None:
    """Checks that the scheduler is one for what the checkpoint was trained to predict.

    Raises:
        UsageError: The checkpoint says otherwise.
        IntegrityError: The scheduler's configuration cannot be read.
    """
    try:
        told = msgspec.json.decode(scheduler, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            "{path} of {repo} cannot be read: {reason}",
            hint="it was published so and the store is sound: name another one with --like",
            path=SCHEDULER,
            repo=like.repo,
            reason=str(error)[:200],
        ) from error
    predicts_v = told.get("prediction_type") == "v_prediction"
    if V_PREDICTION in tensors and not predicts_v:
        lacks = "prediction_type v_prediction"
    elif ZERO_SNR in tensors and not told.get("rescale_betas_zero_snr"):
        lacks = "rescale_betas_zero_snr"
    else:
        return
    raise UsageError(
        "{file} was trained for a scheduler with {setting}, and that of {like} has not got it",
        hint="name a repository of that kind: --like OWNER/NAME",
        file=printable(file.name),
        setting=lacks,
        like=like.repo,
    )


def _is_model(like: Manifest, component: str) -> bool:
    names = {base(f.path) for f in like.files if _component(f.path) == component}
    return "config.json" in names and not any(name.startswith("tokenizer") for name in names)


def _component(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return folder if name and "/" not in folder else ""


def _is_small(path: str) -> bool:
    return path.endswith(_SMALL) and weight_name(base(path)) is None


def _unlike(file: File, kind: Kind, like: Manifest, reason: str) -> UsageError:
    return UsageError(
        "{file} is {kind} and cannot be made like {like}: {reason}",
        hint="name the model that it was made from: --like OWNER/NAME",
        file=printable(file.name),
        kind=kind.title,
        like=like.repo,
        reason=reason,
    )
