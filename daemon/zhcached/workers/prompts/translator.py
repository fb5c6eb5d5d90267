"""A translator of the Marian kind, from Chinese into English.

Each sentence is translated by itself, never in a batch: padding would change its last bits, and
with them now and then a word, by what stands beside it. Beams are fixed and nothing is drawn, so
that one text has one translation.

Source: transformers.MarianMTModel, MarianTokenizer; the settings of the published opus-mt models.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from zhcache.chinese.adapter.pieces import cut_into
from zhcache.chinese.wording import in_english
from zhcache.errors import ZhcacheError
from zhcached.workers.prompts.question import Turn

BEAMS = 4
MAX_TOKENS = 512


class Translator:
    """Translates texts.

    Args:
        model: A MarianMTModel.
        tokenizer: Its MarianTokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._limit = min(MAX_TOKENS, model.config.max_position_embeddings)
        model.generation_config = _settings(model.config)

    def answer(self, turn: Turn) -> dict[str, Any]:
        """Returns the English ``texts``, and of each the Chinese that was ``cut``."""
        done = [self._text(text, turn) for text in turn.question.texts]
        return {"texts": [text for text, _ in done], "cut": [cut for _, cut in done]}

    def _text(self, text: str, turn: Turn) -> tuple[str, str]:
        lost: list[str] = []
        english = in_english(text, lambda unit: self._unit(unit, turn, lost), turn.question.keep)
        return english, "".join(lost)

    def _unit(self, text: str, turn: Turn, lost: list[str]) -> str:
        # A character is mostly a token at most; one more begins a text, and one ends it.
        pieces = cut_into(text, range(1, len(text) + 1), self._limit - 2)
        fitting = (part for piece in pieces for part in self._fitting(piece.strip()))
        return " ".join(self._piece(part, turn, lost) for part in fitting)

    def _fitting(self, text: str) -> Iterator[str]:
        """Yields a text in parts that the model takes: a ligature (ﷺ) is many tokens."""
        if len(text) < 2 or self._ids(text).shape[1] <= self._limit:
            yield text
            return
        half = len(text) // 2
        yield from self._fitting(text[:half])
        yield from self._fitting(text[half:])

    def _ids(self, text: str) -> torch.Tensor:
        return self._tokenizer([text], return_tensors="pt")["input_ids"]

    @torch.inference_mode()
    def _piece(self, text: str, turn: Turn, lost: list[str]) -> str:
        turn.check()
        ids = self._ids(text)
        # English takes fewer tokens than twice the Chinese; what goes on and on repeats itself.
        longest = min(self._limit - 1, 2 * ids.shape[1] + 32)

        def stop(ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((len(ids),), turn.is_cancelled(), dtype=torch.bool)

        found = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest,
            stopping_criteria=[stop],
        )[0]
        turn.check()
        if self.model.config.eos_token_id not in found.tolist()[1:]:
            lost.append(text)
        return self._tokenizer.decode(found, skip_special_tokens=True)


def load(folder: Path) -> Translator:
    """Returns the translator in ``folder``.

    Raises:
        ZhcacheError: What reads its vocabulary is not installed.
        Exception: Whatever transformers raises on files that are not what they should be.
    """
    try:
        import sentencepiece as _sentencepiece  # noqa: F401 - transformers names it less plainly
    except ImportError as error:
        raise ZhcacheError(
            "a translator cannot be read without {package}",
            hint="pip install 'zhcache[chinese]' where the daemon runs",
            package="sentencepiece",
        ) from error
    from transformers import MarianMTModel, MarianTokenizer

    with warnings.catch_warnings():
        # It recommends a normaliser of punctuation; that is done by zhcache.chinese.wording.
        warnings.simplefilter("ignore")
        tokenizer = MarianTokenizer.from_pretrained(str(folder), local_files_only=True)
    read: Any = MarianMTModel.from_pretrained
    model, found = read(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        # Else that of its configuration, which may name code of a hub's.
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    lacking = sorted(map(str, (*found["missing_keys"], *found["mismatched_keys"])))
    if lacking:
        raise ValueError(f"its weights lack {', '.join(lacking[:3])}")
    return Translator(model.eval().requires_grad_(False), tokenizer)


def _settings(config: Any) -> Any:
    from transformers import GenerationConfig

    # Its own, whatever the folder says.
    return GenerationConfig(
        num_beams=BEAMS,
        do_sample=False,
        early_stopping=True,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        bad_words_ids=[[config.pad_token_id]],
    )
