"""Which texts a prompt model is asked about, and what its answer means for a call. Pure.

Conditions go to where the pipeline is, as ``Call.conditions`` or by hand::

    {"prompt": [None | {ARGUMENT: tensor}],           # one for each item
     "negative_prompt": [None | {ARGUMENT: tensor}],
     "empty": {ARGUMENT: tensor},                     # of the empty text, to lengthen others by
     "pieces": bool}                                  # whether long texts are encoded in pieces

A tensor is ``(length, dim)``, or ``(dim,)`` for what is pooled and ``(length,)`` for a mask. None
is: this text is for the pipeline's own encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zhcache.chinese.detect import language
from zhcache.chinese.texts import Item, one_text


@dataclass(frozen=True)
class Foreign:
    """The texts of one item that are for the Chinese encoder; None: for the base's own."""

    prompt: str | None
    negative: str | None


def foreign(items: Sequence[Item], kind: str, missing: str) -> list[Foreign]:
    """Returns which texts the Chinese encoder or adapter reads.

    An encoder of its own space reads a pair whole, since guidance subtracts one from the other. An
    adapter speaks the base's space, so that it is decided text by text; the empty negative of a
    Chinese prompt is the adapter's too.

    Args:
        items: What is said about each image.
        kind: ``encoder`` or ``adapter``.
        missing: What a missing negative is to the family: ``empty`` or ``none``.

    Raises:
        UsageError: Texts of one item differ that a Chinese encoder would have to read.
    """
    return [_foreign(item, kind, missing) for item in items]


def _foreign(item: Item, kind: str, missing: str) -> Foreign:
    is_chinese = any(language(text) == "chinese" for text in item.texts.values())
    is_negative_chinese = any(language(text) == "chinese" for text in item.negatives.values())
    has_negative = bool(item.negatives) or missing == "empty"
    if kind == "encoder":
        is_chinese = is_negative_chinese = is_chinese or is_negative_chinese
    elif not any(item.negatives.values()):
        is_negative_chinese = is_chinese
    return Foreign(
        one_text(item.texts) if is_chinese else None,
        one_text(item.negatives) if is_negative_chinese and has_negative else None,
    )


def wanted(texts: Sequence[Foreign]) -> list[str]:
    """Returns each text that is asked about, once; the empty one is always among them."""
    named = [text for one in texts for text in (one.prompt, one.negative) if text is not None]
    return list(dict.fromkeys([*named, ""]))


def conditions(
    texts: Sequence[Foreign], asked: Sequence[str], embeds: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Returns the conditions that an answer means.

    Args:
        texts: As ``foreign`` returned them.
        asked: The texts that the answer is about.
        embeds: By argument and for each of ``asked`` a tensor ``(chunks, length, dim)``,
            ``(chunks, length)`` for a mask, or ``(dim,)`` for what is pooled.
    """
    known = {
        text: {name: _flat(tensors[place]) for name, tensors in embeds.items()}
        for place, text in enumerate(asked)
    }
    return {
        "prompt": [None if one.prompt is None else known[one.prompt] for one in texts],
        "negative_prompt": [None if one.negative is None else known[one.negative] for one in texts],
        "empty": known[""],
    }


def in_pieces(items: Sequence[Item]) -> dict[str, Any]:
    """Returns conditions that have the base's own encoder read all texts, long ones in pieces."""
    nobody = [None] * len(items)
    return {"prompt": nobody, "negative_prompt": nobody, "empty": None, "pieces": True}


def chunks(embeds: Mapping[str, Sequence[Any]], place: int) -> int:
    """Returns in how many pieces the text at ``place`` was encoded."""
    shapes = [tensors[place].shape for tensors in embeds.values()]
    return max((int(shape[0]) for shape in shapes if len(shape) > 1), default=1)


def _flat(tensor: Any) -> Any:
    """Returns a tensor with its chunks one after the other."""
    count, *shape = tensor.shape
    return tensor.reshape(count * shape[0], *shape[1:]) if shape else tensor
