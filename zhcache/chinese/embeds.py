"""Conditions into a pipeline's call: embeddings by name, in place of texts. Imports torch.

Texts that stay with the base are encoded by the pipeline's public ``encode_prompt``, each as a
prompt of its own, which is what the call itself would do; the call then takes all of them as
embeddings, once for each prompt where it repeats them itself for several images. States that are
the base's own draw bit for bit what their texts draw.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zhcache.chinese.families import Family, family_of
from zhcache.chinese.own import has_negative, pieces, takes_negative
from zhcache.chinese.texts import NEGATIVE, Item, is_text, items
from zhcache.errors import UsageError

_PASSED_ON = ("max_sequence_length", "clean_caption")
_SCALES = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")

States = dict[str, torch.Tensor]
"""By argument, of one text: ``(length, dim)``, pooled ``(dim,)``, a mask ``(length,)``."""


def apply(
    pipeline: Any, arguments: Mapping[str, Any], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the arguments of a call with embeddings in place of its texts.

    Args:
        pipeline: Whose call it is.
        arguments: All by name.
        conditions: As ``zhcache.chinese.conditions`` has them, with torch's tensors.

    Raises:
        UsageError: The pipeline takes no embeddings, or not these.
    """
    family = family_of(type(pipeline).__name__)
    if family is None or not family.embeds:
        raise UsageError(
            "{kind} is not known to take embeddings in place of a Chinese prompt",
            hint="chinese='translate' serves every pipeline",
            kind=type(pipeline).__name__,
        )
    base = _Base(pipeline, family, arguments, in_pieces=conditions.get("pieces", False))
    said = items(arguments)
    if conditions.get("pieces", False) and base.takes_whole(said):
        # Nothing is long: the call does best what it does by itself.
        return dict(arguments)
    positive = _Side(family, said, conditions["prompt"])
    sides = {"": positive.states(base)}
    if takes_negative(pipeline) and has_negative(pipeline, family, said):
        negatives = [Item({"prompt": "", **one.negatives}, {}) for one in said]
        negative = _Side(family, negatives, conditions["negative_prompt"])
        sides[NEGATIVE] = negative.states(base, is_negative=True)
    every = [(states, is_ours) for side in sides.values() for states, is_ours in side]
    longest = max(len(states["prompt_embeds"]) for states, _ in every)
    empty = _Empty(base, conditions.get("empty"))
    given = {name: None if is_text(name) else value for name, value in arguments.items()}
    given |= {name: None for name in base.parameters if is_text(name)}
    times = 1 if family.repeats else int(arguments.get("num_images_per_prompt") or 1)
    if times > 1:
        given["num_images_per_prompt"] = 1
    for prefix, side in sides.items():
        evened = [_lengthened(states, empty, longest, is_ours=ours) for states, ours in side]
        for name in family.embeds:
            stacked = base.stacked([states[name] for states in evened], name)
            given[prefix + name] = stacked.repeat_interleave(times, dim=0)
    return given


class _Base:
    """The pipeline's own text encoder, as the call at hand uses it."""

    def __init__(
        self, pipeline: Any, family: Family, arguments: Mapping[str, Any], *, in_pieces: bool
    ) -> None:
        self.parameters = inspect.signature(pipeline.__call__).parameters
        self._pipeline = pipeline
        self._family = family
        self._arguments = arguments
        self._in_pieces = in_pieces and family.is_longer
        self._dtypes: dict[str, torch.dtype] = {}

    def takes_whole(self, said: Sequence[Item]) -> bool:
        """Whether no text is longer than the pipeline's text encoder."""
        every = {
            text for one in said for texts in (one.texts, one.negatives) for text in texts.values()
        }
        return all(len(pieces(self._pipeline, text)) == 1 for text in every)

    def encode(self, texts: Sequence[Mapping[str, str]], *, is_negative: bool) -> list[States]:
        """Returns the states of texts, given by argument."""
        if not self._in_pieces or any(len(set(one.values())) > 1 for one in texts):
            return self._encode(texts, is_negative=is_negative) if texts else []
        found: list[States] = []
        for one in texts:
            cut = [{"prompt": piece} for piece in pieces(self._pipeline, one["prompt"])]
            read = self._encode(cut, is_negative=is_negative)
            embeds = torch.cat([states["prompt_embeds"] for states in read])
            found.append({**read[0], "prompt_embeds": embeds})
        return found

    def _encode(self, texts: Sequence[Mapping[str, str]], *, is_negative: bool) -> list[States]:
        """Returns the states of texts, each in one piece; no guidance, nothing repeated."""
        encode_prompt = self._pipeline.encode_prompt
        takes = inspect.signature(encode_prompt).parameters
        named = {"prompt"}.union(*texts)
        options: dict[str, Any] = {
            name: [one.get(name, one["prompt"]) for one in texts] if name in named else None
            for name in takes
            if is_text(name)
        }
        options |= {
            "device": self._pipeline._execution_device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "lora_scale": self._lora_scale(),
        }
        for name in _PASSED_ON if is_negative else (*_PASSED_ON, "clip_skip"):
            # clip_skip is of prompts alone: the pipelines encode negatives without.
            if name in self.parameters:
                options[name] = self._arguments.get(name, self.parameters[name].default)
        with torch.no_grad():
            returned = encode_prompt(**{k: v for k, v in options.items() if k in takes})
        found = {name: returned[place] for name, place in self._family.embeds.items()}
        self._dtypes |= {name: tensor.dtype for name, tensor in found.items()}
        return [{name: tensor[one] for name, tensor in found.items()} for one in range(len(texts))]

    def stacked(self, tensors: Sequence[torch.Tensor], name: str) -> torch.Tensor:
        """Returns ``(items, ...)`` on the pipeline's device, in the dtype of its own encoder.

        Raises:
            UsageError: They do not go together.
        """
        device = self._pipeline._execution_device
        dtype = self._dtype(name, tensors[0])
        try:
            return torch.stack([one.to(device=device, dtype=dtype) for one in tensors])
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(one.shape)) for one in tensors)
            raise _misfit(name, shapes) from error

    def _dtype(self, name: str, tensor: torch.Tensor) -> torch.dtype:
        if name in self._dtypes:
            return self._dtypes[name]
        if name.endswith("_mask"):
            return tensor.dtype
        pipeline = self._pipeline
        parts = ("text_encoder", "text_encoder_2", "unet", "transformer")
        there = [part for part in (getattr(pipeline, one, None) for one in parts) if part]
        return there[0].dtype

    def _lora_scale(self) -> Any:
        for name in _SCALES:
            if (given := self._arguments.get(name)) and "scale" in given:
                return given["scale"]
        return None


class _Side:
    """The prompts, or the negatives, of a call's items."""

    def __init__(
        self, family: Family, said: Sequence[Item], given: Sequence[States | None]
    ) -> None:
        _check_whole(family, given)
        if len(given) != len(said):
            raise UsageError(
                "conditions came for {given} of {count} texts", given=len(given), count=len(said)
            )
        self._said = said
        self._given = given

    def states(self, base: _Base, *, is_negative: bool = False) -> list[tuple[States, bool]]:
        """Returns each item's states, and whether the base's own encoder made them."""
        own = [
            one.texts for one, states in zip(self._said, self._given, strict=True) if states is None
        ]
        made = iter(base.encode(own, is_negative=is_negative))
        return [(next(made), True) if given is None else (given, False) for given in self._given]


def _check_whole(family: Family, given: Sequence[States | None]) -> None:
    """Checks that states have all that the family is handed; what an adapter gives is its own say.

    A mask may be missing: all is attended to then.
    """
    for states in given:
        for name in family.embeds:
            if states is not None and name not in states and not name.endswith("_mask"):
                raise _misfit(name, "-")


def _misfit(name: str, shapes: str) -> UsageError:
    return UsageError(
        "the Chinese encoder's {name} do not fit this pipeline's: {shapes}",
        hint="take an adapter that was trained for this model",
        name=name,
        shapes=shapes,
    )


class _Empty:
    """The states of the empty text, by either encoder, to lengthen shorter ones with."""

    def __init__(self, base: _Base, foreign: States | None) -> None:
        self._base = base
        self._foreign = foreign
        self._own: States | None = None

    def of(self, *, is_ours: bool) -> States:
        if not is_ours and self._foreign is not None:
            return self._foreign
        if self._own is None:
            self._own = self._base.encode([{"prompt": ""}], is_negative=True)[0]
        return self._own


def _lengthened(states: States, empty: _Empty, length: int, *, is_ours: bool) -> States:
    """Returns states of ``length``: the pair that guidance subtracts has to be equally long.

    What is added are the states of an empty text, which says nothing, rather than zeros, which no
    encoder ever gave the model. Where there is a mask, what is added is masked.
    """
    embeds = states["prompt_embeds"]
    have = len(embeds)
    made = dict(states)
    mask = "prompt_attention_mask"
    made.setdefault(mask, torch.ones(have, dtype=torch.long, device=embeds.device))
    lacking = length - have
    if lacking > 0:
        nothing = empty.of(is_ours=is_ours)["prompt_embeds"].to(embeds)
        times = -(-lacking // len(nothing))
        made["prompt_embeds"] = torch.cat([embeds, nothing.repeat(times, 1)[:lacking]])
        made[mask] = torch.cat([made[mask], made[mask].new_zeros(lacking)])
    return made
