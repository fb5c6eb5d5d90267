"""An adapter on the disk: what ``zhcache_adapter.json`` says, checked when it is read.

The folder holds this file, ``encoder/`` (a BertModel), ``tokenizer/`` (its BertTokenizer),
``adapter.safetensors`` (the resampler, see ``network.py``) and a card. What comes from elsewhere
is a stranger's: sizes are bounded before anything is made of them. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from zhcache.errors import IntegrityError, NotFound, VersionMismatch

FILE = "zhcache_adapter.json"
WEIGHTS = "adapter.safetensors"
ENCODER = "encoder"
TOKENIZER = "tokenizer"
CARD = "README.md"
OWNER = "adapters"
"""A short name NAME means the repository ``adapters/NAME``."""
SCHEMA = 1
MAX_BYTES = 1024 * 1024

Kind = Literal["states", "pooled", "mask"]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
_Commit = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_Text = Annotated[str, msgspec.Meta(max_length=4096)]
_Length = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_Dim = Annotated[int, msgspec.Meta(ge=1, le=32768)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The model that the adapter is for.

    Attributes:
        repo: ``OWNER/NAME`` it was trained with.
        commit: Its snapshot.
        class_name: Of its pipeline.
        text_encoders: sha256 of the files with its text encoders' weights; a pipeline that has one
            of them has the space that the adapter speaks.
    """

    repo: _Text
    commit: _Commit
    class_name: _Text
    text_encoders: Annotated[list[_Digest], msgspec.Meta(min_length=1, max_length=256)]


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """One argument of the pipeline's call that the adapter gives.

    Attributes:
        length: Positions; 1 where it is pooled.
        dim: Channels; 1 for a mask.
        kind: States ``(length, dim)``, a pooled vector ``(dim,)`` or a mask ``(length,)``.
    """

    length: _Length
    dim: _Dim
    kind: Kind = "states"


class Encoder(msgspec.Struct, frozen=True, kw_only=True):
    """The Chinese encoder in the folder.

    Attributes:
        class_name: Of transformers.
        where: The folder it lies in.
        max_length: Tokens of a piece of text, [CLS] and [SEP] among them: what it was trained on.
    """

    class_name: Literal["BertModel"] = "BertModel"
    where: Literal["encoder/"] = "encoder/"
    max_length: Annotated[int, msgspec.Meta(ge=8, le=4096)]


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """The resampler's sizes."""

    layers: Annotated[int, msgspec.Meta(ge=1, le=64)]
    heads: Annotated[int, msgspec.Meta(ge=1, le=256)]
    width: Annotated[int, msgspec.Meta(ge=8, le=16384)]


class TrainedOn(msgspec.Struct, frozen=True, kw_only=True):
    """The pairs: how many, sha256 of their file, and what they are in a line."""

    pairs: _Count
    sha256: _Digest
    description: _Text = ""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on pairs that were held out.

    Attributes:
        heldout_error: Squared error over the teacher's own variance: 0 is the teacher, 1 is what
            the mean of all its states would have.
        retrieval: Share of the pairs whose own English text is the nearest of all.
        pairs: How many there were.
    """

    heldout_error: Annotated[float, msgspec.Meta(ge=0)]
    retrieval: Annotated[float, msgspec.Meta(ge=0, le=1)]
    pairs: _Count


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``zhcache_adapter.json``.

    Attributes:
        arguments: What is given, by the names of the call's positive arguments.
        simplified: Whether it was trained on simplified characters and half-width punctuation,
            so that texts are brought to them before they are read.
        zhcache: The version that made it.
    """

    schema: Annotated[int, msgspec.Meta(ge=1)] = SCHEMA
    name: _Text
    base: Base
    arguments: Annotated[dict[_Name, Argument], msgspec.Meta(min_length=1, max_length=8)]
    encoder: Encoder
    network: Network
    trained_on: TrainedOn
    quality: Quality
    simplified: bool
    zhcache: _Text


def parse(content: bytes, where: object = FILE) -> Described:
    """Returns what ``zhcache_adapter.json`` says.

    Args:
        content: The file's bytes.
        where: What to call it in an error.

    Raises:
        IntegrityError: It is not what the format says.
        VersionMismatch: It is of a later format.
    """
    if len(content) > MAX_BYTES:
        raise IntegrityError("{path} is too large to describe an adapter", path=where)
    try:
        schema = msgspec.json.decode(content, type=_Schema).schema
        if schema > SCHEMA:
            raise VersionMismatch(
                "{path} is of format {schema}, and this release knows formats up to {known}",
                hint="pip install --upgrade zhcache",
                path=where,
                schema=schema,
                known=SCHEMA,
            )
        described = msgspec.json.decode(content, type=Described)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _spoilt(where, str(error)) from None
    network = described.network
    if network.width % network.heads:
        raise _spoilt(where, f"width {network.width} is no multiple of {network.heads} heads")
    return described


def read(folder: Path) -> Described:
    """Returns what the adapter in ``folder`` says of itself.

    Raises:
        NotFound: There is none.
        IntegrityError: Its description is not what the format says.
        VersionMismatch: It is of a later format.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError:
        raise NotFound("there is no adapter in {folder}", folder=folder) from None
    return parse(content, path)


def written(described: Described) -> bytes:
    """Returns the content of ``zhcache_adapter.json``."""
    return msgspec.json.format(msgspec.json.encode(described), indent=2) + b"\n"


def repo_of(name: str) -> str:
    """Returns the repository that ``adapter:NAME`` means: OWNER/NAME, or one of ours."""
    return name if "/" in name else f"{OWNER}/{name}"


class _Schema(msgspec.Struct):
    schema: int


def _spoilt(where: object, reason: str) -> IntegrityError:
    return IntegrityError(
        "{path} does not describe an adapter: {reason}",
        hint="fetch or train it anew",
        path=where,
        reason=reason,
    )
