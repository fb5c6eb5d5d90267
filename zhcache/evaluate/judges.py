"""How well pictures show what a text says, in the eyes of models that read both.

The score is 100 times the cosine between the model's features of the picture and of the text.
Source: Hessel et al., "CLIPScore", EMNLP 2021, without its clipping at 0 and its factor 2.5, which
change no comparison. A judge that was used to train or to filter what it judges is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from zhcache.errors import UsageError
from zhcache.evaluate.features import Progress, batches
from zhcache.evaluate.measure import note
from zhcache.evaluate.pictures import Picture
from zhcache.evaluate.stored import TWO_TOWERS, Stored, hushed, pooled, told
from zhcache.i18n import mark
from zhcache.protocol.sources import Phrase

SCALE = 100.0
_TRAINED = {"chinese_clip": 52, "altclip": 77}
"""Tokens that were seen in training, where the model has room for more."""
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]")
_TOKENS_FOR_BYTES = 1.5
"""Tokens for each character: a vocabulary with Chinese has about one, one of bytes two or more."""
_UNKNOWN = 0.1


class Judge:
    """A model of the store with a tower for pictures and one for texts.

    Args:
        model: Which.

    Raises:
        UsageError: It reads no texts.
        IntegrityError: Its tokenizer cannot be read.
    """

    def __init__(self, model: Stored) -> None:
        if model.kind not in TWO_TOWERS:
            raise UsageError(
                "{model} reads no texts, so it does not judge by them: {kind}",
                hint="a judge is of one of these kinds: {known}",
                model=model.name,
                kind=model.kind,
                known=", ".join(TWO_TOWERS),
            )
        self.name = model.name
        self._model = model
        with told(self.name), hushed():
            from transformers import AutoTokenizer

            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                model.folder, local_files_only=True, trust_remote_code=False
            )
        self._room = _room(model, self._tokenizer)

    def scores(
        self,
        pictures: Sequence[Picture],
        texts: Sequence[str],
        progress: Progress = lambda _: None,
    ) -> list[float]:
        """Returns a score for each picture and its text, from -100 to 100."""
        read = self._read(list(dict.fromkeys(texts)))
        found: list[float] = []
        for batch in batches(pictures):
            seen = _unit(self._model.features([picture.read() for picture in batch]))
            said = torch.stack([read[text] for text in texts[len(found) : len(found) + len(batch)]])
            found += (SCALE * (seen * said).sum(-1)).tolist()
            progress(len(batch))
        return found

    def notes(self, texts: Sequence[str]) -> list[Phrase]:
        """Returns what this judge cannot read of the texts."""
        found: list[Phrase] = []
        with hushed():
            # The library tells of each that is too long by itself.
            each = [self._tokens(text) for text in dict.fromkeys(texts)]
        cut = sum(len(tokens) > self._room for tokens in each)
        if cut:
            text = mark(
                "{judge} reads the first {room} tokens: {count} of {total} prompts are longer"
            )
            found.append(note(text, judge=self.name, room=self._room, count=cut, total=len(each)))
        if self._is_blind("".join("".join(_HAN.findall(text)) for text in texts)):
            text = mark(
                "{judge} knows no Chinese characters, only bytes or nothing: what it says of"
                " Chinese prompts means nothing; take a bilingual judge"
            )
            found.append(note(text, judge=self.name))
        return found

    def _is_blind(self, chinese: str) -> bool:
        if not chinese:
            return False
        with hushed():
            tokens = self._tokenizer(chinese, add_special_tokens=False)["input_ids"]
        unknown = sum(token == self._tokenizer.unk_token_id for token in tokens)
        return len(tokens) > _TOKENS_FOR_BYTES * len(chinese) or unknown > _UNKNOWN * len(tokens)

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text)["input_ids"]

    @torch.inference_mode()
    def _read(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Returns the features of each text, of length 1."""
        found: dict[str, torch.Tensor] = {}
        is_padded_whole = self._model.kind == "siglip"
        for text in texts:
            with told(self.name):
                given = self._tokenizer(
                    [text],
                    truncation=True,
                    max_length=self._room,
                    # SigLIP saw nothing but texts of full length, and no mask.
                    padding="max_length" if is_padded_whole else False,
                    return_tensors="pt",
                ).to(self._model.device)
                named = ("input_ids",) if is_padded_whole else ("input_ids", "attention_mask")
                said = self._model.model.get_text_features(**{name: given[name] for name in named})
            found[text] = _unit(pooled(said).float().cpu())[0]
        return found


def _room(model: Stored, tokenizer: Any) -> int:
    """Returns how many tokens of a text the model reads."""
    limits = [model.model.config.text_config.max_position_embeddings, tokenizer.model_max_length]
    return min([*limits, *([_TRAINED[model.kind]] if model.kind in _TRAINED else [])])


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.double(), dim=-1)
