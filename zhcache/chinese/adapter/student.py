"""The student at its start: a Chinese encoder of its own, or one that was trained before.

Imports torch and transformers.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zhcache.chinese.adapter import format as described
from zhcache.chinese.adapter.network import (
    UNREADABLE,
    Resampler,
    Student,
    read_encoder,
    read_tokenizer,
)
from zhcache.chinese.adapter.teacher import Teacher
from zhcache.errors import IntegrityError, UsageError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ASCII = tuple(chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper())
_PLACES = {".": ".", "text_encoder": "tokenizer", described.ENCODER: described.TOKENIZER}
"""Where an encoder lies in a folder, and its tokenizer."""

_MOST = 20_000
_SHORTEST, _LONGEST = 16, 512
_SEEN_TWICE = 2
_STILL = 1e-3
"""What varies less than this share of the average channel is held to stand still: rounding."""


@dataclass(frozen=True)
class Reader:
    """A Chinese encoder with its tokenizer.

    Attributes:
        model: A BertModel.
        tokenizer: Its BertTokenizer.
        about: What it is.
        folder: Where it was read from; None: it is new.
    """

    model: Any
    tokenizer: Any
    about: described.Encoder
    folder: Path | None = None


def new_reader(texts: Sequence[str], width: int, layers: int) -> Reader:
    """Returns a small BERT without training whose vocabulary are the characters of ``texts``.

    Args:
        texts: What it will read.
        width: Its channels, a multiple of 32.
        layers: How many.
    """
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = _vocabulary(texts)
    tokenizer = BertTokenizer(vocab=vocabulary)
    length = _length(tokenizer, texts, _LONGEST)
    tokenizer.model_max_length = length
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model: Any = BertModel
    return Reader(
        model(config, add_pooling_layer=False), tokenizer, described.Encoder(max_length=length)
    )


def known_reader(folder: Path, texts: Sequence[str]) -> Reader:
    """Returns the BertModel of a folder: one of its own, a Chinese pipeline's, or an adapter's.

    Args:
        folder: The model's.
        texts: What it will read, which says how long its pieces are.

    Raises:
        UsageError: There is no BertModel with safetensors in it.
        IntegrityError: What is there cannot be read.
    """
    part = next((part for part in _PLACES if _is_bert(folder / part)), None)
    if part is None:
        raise UsageError(
            "there is no BertModel in {folder}",
            hint="--encoder takes one, a pipeline with one as its text encoder, or an adapter",
            folder=folder,
        )
    try:
        model, tokenizer = read_encoder(folder / part), read_tokenizer(folder / _PLACES[part])
    except UNREADABLE as error:
        raise IntegrityError(
            "the encoder in {folder} cannot be read: {reason}", folder=folder, reason=error
        ) from None
    length = _length(tokenizer, texts, model.config.max_position_embeddings)
    return Reader(model, tokenizer, described.Encoder(max_length=length), folder / part)


def student(reader: Reader, teacher: Teacher, network: described.Network) -> Student:
    """Returns a student of ``teacher`` that has learnt nothing yet."""
    resampler = Resampler(teacher.arguments, network, reader.model.config.hidden_size)
    return Student(reader.model, resampler)


def measure(resampler: Resampler, teacher: Teacher, texts: Sequence[str]) -> None:
    """Has ``resampler`` know the teacher's mean and spread, measured on ``texts``."""
    sums: dict[str, torch.Tensor] = {}
    squares: dict[str, torch.Tensor] = {}
    for start in range(0, len(texts), 32):
        for name, states in teacher.states(texts[start : start + 32]).items():
            # Differences of large sums: in float32 nothing would be left of small spreads.
            wide = states.double()
            sums[name] = sums.get(name, 0) + wide.sum(0)
            squares[name] = squares.get(name, 0) + wide.square().sum(0)
    for name, total in sums.items():
        mean = total / len(texts)
        spread = (squares[name] / len(texts) - mean.square()).clamp_min(0).sqrt()
        spread[spread <= _STILL * spread.square().mean().sqrt()] = 0
        resampler.measure(name, mean.float(), spread.float())


def _vocabulary(texts: Iterable[str]) -> dict[str, int]:
    """Returns token numbers: each character seen twice, alone and within a word; the usual ones."""
    seen = Counter(character for text in texts for character in text.lower())
    known = [
        character
        for character, count in seen.most_common(_MOST)
        if count >= _SEEN_TWICE and not character.isspace()
    ]
    letters = list(dict.fromkeys([*sorted(known), *_ASCII]))
    within = [f"##{letter}" for letter in letters if letter.isascii() and letter.isalnum()]
    return {token: number for number, token in enumerate([*_SPECIAL, *letters, *within])}


def _length(tokenizer: Any, texts: Sequence[str], most: int) -> int:
    """Returns the longest text's tokens, to the next eight: past them nothing was learnt."""
    found = tokenizer(list(texts), verbose=False)["input_ids"]
    longest = max((len(ids) for ids in found), default=0)
    return min(max(-(-longest // 8) * 8, _SHORTEST), most)


def _is_bert(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads((folder / "config.json").read_bytes()).get("model_type") == "bert"
    return False
