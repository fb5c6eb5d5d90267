"""The prompt model that a worker holds: what lies in its folder, read with care.

A snapshot is a stranger's: its configuration is checked against what is known and bounded before
anything is made of it. Weights come from safetensors, code from transformers alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from zhcache.chinese.adapter.format import FILE as ADAPTER
from zhcache.errors import IntegrityError, ZhcacheError
from zhcache.protocol.residency import Call, Load, Loaded, Returned
from zhcache.resident.encode import Encoder as Values
from zhcached.workers.prompts import adapter, encoder, translator
from zhcached.workers.prompts.question import Question, Turn, question

MAX_CONFIG = 2**20

MAX_VOCABULARY = 64 * 2**20
"""Bytes of each file that a tokenizer reads; the largest known are a quarter of that."""

_OF_TOKENIZERS = (
    "source.spm", "target.spm", "vocab.json", "target_vocab.json", "vocab.txt", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip

# Of transformers' configurations: what decides how large a model is. The largest known are a tenth
# of these.
_BOUNDS = {
    "vocab_size": 2_000_000, "decoder_vocab_size": 2_000_000, "hidden_size": 8192,
    "d_model": 8192, "intermediate_size": 65_536, "num_hidden_layers": 128, "encoder_layers": 128,
    "decoder_layers": 128, "encoder_ffn_dim": 65_536, "decoder_ffn_dim": 65_536,
    "max_position_embeddings": 65_536, "type_vocab_size": 1024,
}  # fmt: skip

MAX_POSITIONS = 2**22
"""Numbers in a table of positions that is computed, one by one, rather than read."""


class Reader(Protocol):
    """What answers questions."""

    model: Any

    def answer(self, turn: Turn) -> dict[str, Any]:
        """Returns the answer's fields."""
        ...


class PromptModel:
    """A reader, as a resident worker holds it.

    Attributes:
        device: The CPU.
        compiled: Nothing is.
    """

    device = torch.device("cpu")
    compiled = None

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def loaded(self) -> Loaded:
        """Returns what is told of it."""
        model = self._reader.model
        weights = {one.data_ptr(): one.nbytes for one in model.parameters()}
        return Loaded(
            class_name=type(model).__name__,
            parameters=list(Question.__struct_fields__),
            bytes=sum(weights.values()),
        )

    def perform(
        self, call: Call, is_cancelled: Callable[[], bool]
    ) -> tuple[Returned, Sequence[int]]:
        """Answers a call; returns the answer and the descriptors beside it.

        Raises:
            UsageError: It asks what cannot be asked.
            Stopped: ``is_cancelled`` said so.
        """
        began = time.monotonic()
        fields = self._reader.answer(Turn(question(call.arguments), is_cancelled))
        values = Values()
        returned = Returned(
            id=call.id,
            class_name="dict",
            fields={name: values.encode(value, name) for name, value in fields.items()},
            seconds=time.monotonic() - began,
        )
        return returned, values.finish()


def load(request: Load) -> PromptModel:
    """Returns the prompt model that ``request`` names.

    Raises:
        IntegrityError: It cannot be read, or is none that is known.
        ZhcacheError: What reads it is not installed.
    """
    folder = Path(request.folder)
    try:
        return PromptModel(_read(folder, request))
    except ZhcacheError:
        raise
    except Exception as error:
        # Foreign code over a stranger's files raises what it likes.
        raise _unreadable(request.repo, f"{type(error).__name__}: {error}"[:500]) from error


def _read(folder: Path, request: Load) -> Reader:
    if (folder / ADAPTER).is_file():
        _check_sizes(folder / "tokenizer", request.repo)
        _check_model(folder / "encoder", request.repo, "bert")
        return adapter.load(folder)
    if (folder / encoder.FOLDER).is_dir():
        _check_sizes(folder / encoder.TOKENIZER, request.repo)
        _check_model(folder / encoder.FOLDER, request.repo, "bert")
        simplified = bool(request.options.get("simplified"))
        return encoder.load(folder, request.repo, is_simplified=simplified)
    _check_sizes(folder, request.repo)
    _check_model(folder, request.repo, "marian")
    return translator.load(folder)


def _check_sizes(folder: Path, repo: str) -> None:
    """Checks that no file of a tokenizer is larger than any can be meant to be."""
    for name in _OF_TOKENIZERS:
        path = folder / name
        if path.is_file() and path.stat().st_size > MAX_VOCABULARY:
            raise _unreadable(repo, f"{name} is too large")


def _check_model(folder: Path, repo: str, kind: Literal["bert", "marian"]) -> None:
    """Checks that a model is of a kind, and that its configuration means no more than is there.

    transformers makes what weights lack before it says that they do: by a configuration of a few
    bytes, more than the machine has.
    """
    config = _config(folder / "config.json", repo, kind)
    if kind == "marian":
        positions = config.get("max_position_embeddings", 1024) * config.get("d_model", 1024)
        if positions > MAX_POSITIONS:
            raise _unreadable(repo, f"its table of positions has {positions} numbers")
    # On the meta device it takes no memory.
    with torch.device("meta"):
        model = _made(config, kind)
    numbers = sum(one.numel() for one in model.parameters() if one.requires_grad)
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    # A number takes a byte at least.
    if numbers > there:
        raise _unreadable(repo, f"it is to have {numbers} weights, in files of {there} bytes")


def _made(config: dict[str, Any], kind: Literal["bert", "marian"]) -> torch.nn.Module:
    from transformers import BertConfig, BertModel, MarianConfig, MarianMTModel

    ours = {**config, "_attn_implementation": "sdpa", "attn_implementation": "sdpa"}
    if kind == "bert":
        return BertModel(BertConfig(**ours), add_pooling_layer=False)
    return MarianMTModel(MarianConfig(**ours))


def _config(path: Path, repo: str, kind: str) -> dict[str, Any]:
    """Returns a configuration that is of a kind of model, and of a size that can be meant."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise _unreadable(repo, f"{path.name}: {error.strerror}") from error
    if len(raw) > MAX_CONFIG:
        raise _unreadable(repo, f"{path.name} is too large")
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _unreadable(repo, f"{path.name}: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != kind:
        raise _unreadable(repo, f"{path.name} is not of the kind {kind}")
    for name, most in _BOUNDS.items():
        value = config.get(name, 1)
        if not isinstance(value, int) or not 1 <= value <= most:
            raise _unreadable(repo, f"{name} is {str(value)[:40]}")
    return config


def _unreadable(repo: str, reason: str) -> IntegrityError:
    return IntegrityError(
        "{repo} cannot be read as a prompt model: {reason}",
        hint="`zhcache verify {repo}` tells whether it is as it was published; then"
        " `zhcache repair {repo}`, or take another revision",
        repo=repo,
        reason=reason,
    )


__all__ = ["PromptModel", "load"]
