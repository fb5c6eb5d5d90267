"""The article's way, repaired as far as it can run: a Chinese BERT's states straight to the UNet.

The article takes ``bert-base-chinese``, whose states happen to be as wide as those of CLIP-L, and
gives the first 77 of them to a UNet that was trained on CLIP's. Here the BERT is as wide as the
scenes model's text encoder, and has learned its Chinese the way BERT did, by guessing masked
characters (Devlin et al., 2019), on the same captions that the adapter is trained on. So it knows
the language and not the UNet. Repaired: the empty negative goes through it as well, and all texts
are padded to one length, without which guidance fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

MASKED = 0.15
BATCH = 128
_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class RawBert:
    """A BERT that learned the captions' language, and its states as ``prompt_embeds``."""

    def __init__(self, tokenizer: Any, model: Any, length: int) -> None:
        self._tokenizer = tokenizer
        self._model = model.eval()
        self._length = length

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """Returns states of shape (texts, length, width), float32."""
        told = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        with torch.no_grad():
            return self._model(**told).last_hidden_state


def learned(
    texts: Sequence[str],
    folder: Path,
    *,
    width: int,
    length: int,
    steps: int,
    say: Callable[[str], object],
) -> RawBert:
    """Trains a BERT on ``texts`` by masked characters.

    Args:
        texts: Chinese captions.
        folder: Where its vocabulary is written.
        width: Of its states: the UNet's ``cross_attention_dim``.
        length: In tokens: what the base's own encoder gives.
        steps: Of training.
        say: Told how far it is.
    """
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    characters = sorted({character for text in texts for character in text if character.strip()})
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*_MARKS, *characters]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(str(vocabulary))
    config = BertConfig(
        vocab_size=len(_MARKS) + len(characters),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=length,
        pad_token_id=0,
    )
    model = BertForMaskedLM(config)
    # The fused one's backward takes most of a step on CPUs.
    model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    choice, mask = random.Random(0), tokenizer.mask_token_id
    for step in range(steps):
        told = tokenizer(choice.choices(texts, k=BATCH), padding=True, return_tensors="pt")
        hidden = (torch.rand(told["input_ids"].shape) < MASKED) & (told["input_ids"] > len(_MARKS))
        labels = told["input_ids"].where(hidden, torch.tensor(-100))
        told["input_ids"] = told["input_ids"].masked_fill(hidden, mask)
        loss = model(**told, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            say(f"BERT {step}/{steps} {loss.item():.3f}")
    return RawBert(tokenizer, model.bert, length)
