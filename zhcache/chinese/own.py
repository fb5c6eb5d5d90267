"""What a pipeline's own text encoder reads of a call's texts: by its tokenizers. Imports no torch.

A text past an encoder's window is cut without an error. Which tokenizer reads what, and how much,
is the table's of families; tests hold it against what pipelines make of texts.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zhcache.chinese.adapter.pieces import cut_into
from zhcache.chinese.families import Family, family_of
from zhcache.chinese.texts import NEGATIVE, Item, items, placed
from zhcache.protocol.prompts import OwnRead

_SURELY_SHORT = 30
"""Bytes of a text that no text encoder cuts. Of more only the pipeline's tokenizer knows.

A token has a byte at least, and the shortest encoders take 32 with those at the ends.
"""


def is_surely_short(text: str) -> bool:
    """Whether no text encoder cuts a text, so that its tokenizer need not be asked."""
    return len(text.encode(errors="surrogatepass")) <= _SURELY_SHORT


def readings(
    pipeline: Any, arguments: Mapping[str, Any], conditions: Mapping[str, Any] | None
) -> list[OwnRead]:
    """Returns which of a call's texts the pipeline's own encoder cuts, or reads in pieces.

    Args:
        pipeline: Whose call it is.
        arguments: All by name, with the texts that are sent.
        conditions: As ``zhcache.chinese.conditions`` has them; None: the call is as it is.
    """
    family = family_of(type(pipeline).__name__)
    if family is None:
        return []
    is_in_pieces = family.is_longer and conditions is not None and conditions.get("pieces", False)
    whole = _read_whole(items(arguments)) if is_in_pieces else (True, True)
    found: list[OwnRead] = []
    for name, place, text in placed(arguments):
        if (
            is_surely_short(text)
            or not _is_text(text)
            or _is_given(arguments, name, place, conditions)
        ):
            continue
        if whole[name.startswith(NEGATIVE)]:
            kept = _kept(pipeline, family, arguments, name, text)
            if text[kept:].strip():
                found.append(OwnRead(argument=name, place=place, kept=kept))
        elif (count := len(pieces(pipeline, text))) > 1:
            found.append(OwnRead(argument=name, place=place, chunks=count))
    if conditions is not None and not is_in_pieces:
        found += _missing(pipeline, family, arguments)
    return found


def pieces(pipeline: Any, text: str) -> list[str]:
    """Returns a text in pieces that the pipeline's tokenizer does not cut."""
    tokenizer = getattr(pipeline, "tokenizer", None) or pipeline.tokenizer_2
    marks = tokenizer.num_special_tokens_to_add()
    return cut_into(text, _ends(tokenizer, text), tokenizer.model_max_length - marks)


def takes_negative(pipeline: Any) -> bool:
    """Whether a pipeline takes embeddings of what is not wanted."""
    return f"{NEGATIVE}prompt_embeds" in inspect.signature(pipeline.__call__).parameters


def has_negative(pipeline: Any, family: Family, said: Sequence[Item]) -> bool:
    """Whether negatives are to be given, rather than left to the pipeline."""
    if any(one.negatives for one in said):
        return True
    # SDXL was trained with zeros in place of an empty negative, and puts them in itself.
    is_zero = getattr(pipeline.config, "force_zeros_for_empty_prompt", False)
    return family.negative == "empty" and not is_zero


def _missing(pipeline: Any, family: Family, arguments: Mapping[str, Any]) -> Iterator[OwnRead]:
    """Yields what becomes of a negative that was not given, where it is no empty text."""
    name = f"{NEGATIVE}prompt"
    if not takes_negative(pipeline):
        yield OwnRead(argument=name, missing="nothing")
    elif family.negative == "empty" and not has_negative(pipeline, family, items(arguments)):
        yield OwnRead(argument=name, missing="zeros")


def _read_whole(said: Sequence[Item]) -> tuple[bool, bool]:
    """Returns whether prompts, and negatives, are read whole: where those of an item differ."""
    negatives = [{"prompt": "", **one.negatives} for one in said]
    return (
        any(len(set(one.texts.values())) > 1 for one in said),
        any(len(set(one.values())) > 1 for one in negatives),
    )


def _is_given(
    arguments: Mapping[str, Any], name: str, place: int, conditions: Mapping[str, Any] | None
) -> bool:
    """Whether somebody else's states stand in for a text wherever it was said."""
    if conditions is None:
        return False
    given = conditions["negative_prompt" if name.startswith(NEGATIVE) else "prompt"]
    # What was given as one text is of every item.
    own = given if isinstance(arguments[name], str) else given[place : place + 1]
    return all(one is not None for one in own)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        # The pipeline's own error says what it thinks of it.
        return False
    return True


def _kept(pipeline: Any, family: Family, arguments: Mapping[str, Any], name: str, text: str) -> int:
    """Returns how many characters of a text are read, by the tokenizer that reads most of it."""
    found: list[int] = []
    for component, window in family.windows.items():
        tokenizer = getattr(pipeline, component, None)
        if tokenizer is None or not _reads(component, name, arguments):
            continue
        limit = _limit(pipeline, tokenizer, window, arguments)
        if limit is None or not _is_known(tokenizer):
            return len(text)
        limit -= tokenizer.num_special_tokens_to_add() + _before(pipeline, family, tokenizer)
        found.append(_within(tokenizer, text, limit))
    return max(found, default=len(text))


def _before(pipeline: Any, family: Family, tokenizer: Any) -> int:
    """Returns how many tokens of the window are what the family puts before a text."""
    template = getattr(pipeline, "prompt_template_encode", "")
    before = family.before or template.partition("{}")[0]
    # QwenImage takes off again as many as its template has, before it counts.
    dropped = getattr(pipeline, "prompt_template_encode_start_idx", 0)
    return len(_ids(tokenizer, before)) - dropped if before else 0


def _reads(component: str, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether ``tokenizer_2`` reads an argument: its own, or ``prompt`` where that is missing."""
    numbered = component.removeprefix("tokenizer")
    prefix = NEGATIVE if name.startswith(NEGATIVE) else ""
    own = f"{prefix}prompt{numbered}"
    if name == own:
        return True
    given = arguments.get(own)
    return name == f"{prefix}prompt" and not (isinstance(given, (str, list, tuple)) and given)


def _is_known(tokenizer: Any) -> bool:
    """Whether a tokenizer can be asked. What a user put in its place may be anything."""
    return any(kind.__name__ == "PreTrainedTokenizerBase" for kind in type(tokenizer).__mro__)


def _limit(
    pipeline: Any, tokenizer: Any, window: int | str, arguments: Mapping[str, Any]
) -> int | None:
    """Returns how many tokens are read, with those that stand at the ends; None: not known."""
    if isinstance(window, int):
        return window
    if window == "own":
        return getattr(tokenizer, "model_max_length", None)
    known = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    limit = None if known is None else arguments.get(known.name, known.default)
    return limit if isinstance(limit, int) else None


def _within(tokenizer: Any, text: str, limit: int) -> int:
    """Returns how many characters of a text the first ``limit`` tokens have."""
    if limit <= 0:
        return 0
    if getattr(tokenizer, "is_fast", False):
        ends = _ends(tokenizer, text)
        return len(text) if len(ends) <= limit else ends[limit - 1]
    # It does not say where its tokens stand: the longest beginning is looked for that fits.
    end = limit
    while end < len(text) and len(_ids(tokenizer, text[:end])) <= limit:
        end *= 2
    ends = range(min(end, len(text)) + 1)
    return bisect_right(ends, limit, key=lambda end: len(_ids(tokenizer, text[:end]))) - 1


def _ends(tokenizer: Any, text: str) -> list[int]:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [end for _, end in found["offset_mapping"]]


def _ids(tokenizer: Any, text: str) -> Sequence[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
