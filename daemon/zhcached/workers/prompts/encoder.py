"""A Chinese encoder in the place of a base model's own: token states, as its pipeline takes them.

It is asked as StableDiffusionPipeline asks a text encoder, down to the padding that is attended
to: that is how encoders of this kind were trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zhcache.chinese.adapter.network import read_encoder, read_tokenizer
from zhcache.chinese.adapter.pieces import cut_into
from zhcache.chinese.wording import simplified
from zhcached.workers.prompts.question import Turn

FOLDER = "text_encoder"
TOKENIZER = "tokenizer"
ARGUMENT = "prompt_embeds"

LENGTH = 77
"""Positions of the encoders whose place it takes. Tokenizers of BERT say 512, or nothing."""


class Encoder:
    """Reads texts.

    Args:
        model: A BertModel.
        tokenizer: Its BertTokenizer.
        name: What people call it.
        is_simplified: Whether it reads simplified characters only.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, *, is_simplified: bool) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._name = name
        self._is_simplified = is_simplified
        known = int(min(tokenizer.model_max_length, LENGTH))
        self._length = min(known, model.config.max_position_embeddings)

    def answer(self, turn: Turn) -> dict[str, Any]:
        """Returns ``embeds`` (pieces, length, dim) float32 of each text, and what was ``cut``."""
        states: list[torch.Tensor] = []
        cut: list[str] = []
        for text in turn.question.texts:
            pieces = self._pieces(simplified(text) if self._is_simplified else text)
            kept = pieces if turn.question.chunks else pieces[:1]
            states.append(self._read(kept, turn))
            cut.append("".join(pieces[len(kept) :]))
        return {"embeds": {ARGUMENT: states}, "cut": cut, "name": self._name}

    def _pieces(self, text: str) -> list[str]:
        found = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return cut_into(text, [end for _, end in found["offset_mapping"]], self._length - 2)

    @torch.inference_mode()
    def _read(self, pieces: list[str], turn: Turn) -> torch.Tensor:
        found: list[torch.Tensor] = []
        # One by one: what a text's states are must not hang on what stands beside it.
        for piece in pieces:
            turn.check()
            inputs = self._tokenizer(
                piece,
                padding="max_length",
                max_length=self._length,
                truncation=True,
                return_tensors="pt",
            )
            masked = getattr(self.model.config, "use_attention_mask", False)
            mask = inputs["attention_mask"] if masked else None
            found.append(self.model(inputs["input_ids"], attention_mask=mask)[0])
        return torch.cat(found)


def load(folder: Path, name: str, *, is_simplified: bool) -> Encoder:
    """Returns the encoder in the pipeline at ``folder``.

    Raises:
        OSError: It cannot be read.
        ValueError: Weights are missing or have another shape.
    """
    model = read_encoder(folder / FOLDER).eval().requires_grad_(False)
    return Encoder(model, read_tokenizer(folder / TOKENIZER), name, is_simplified=is_simplified)
