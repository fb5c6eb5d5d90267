"""A CLIP tokenizer for the captions: every byte has a token, every word of a caption is one."""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from demohub.vocabulary import END, START, byte_characters

LENGTH: Final = 32
"""Tokens of a prompt, the two marks included; the longest caption has 26."""
_WORD_END: Final = "</w>"


def merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that become one token, in order, so that each word ends as one token.

    Byte-pair encoding (Sennrich et al., 2016) over a list of words that all count the same: the
    most frequent pair is merged, ties by spelling, until nothing is left to merge.
    """
    spelled = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    made: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for parts in spelled:
            for pair in pairwise(parts):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return made
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        made.append(best)
        spelled = [_merged(parts, best) for parts in spelled]


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def tokens(pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Every token and its number."""
    characters = list(byte_characters().values())
    named = [*characters, *(character + _WORD_END for character in characters)]
    named += [first + second for first, second in pairs]
    return {token: number for number, token in enumerate([*dict.fromkeys(named), START, END])}


def write(words: Sequence[str], folder: Path) -> None:
    """Writes ``vocab.json`` and ``merges.txt``."""
    pairs = merges(words)
    folder.mkdir(parents=True, exist_ok=True)
    told = json.dumps(tokens(pairs), ensure_ascii=False)
    (folder / "vocab.json").write_text(told, encoding="utf-8")
    lines = "\n".join(f"{first} {second}" for first, second in pairs)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")


def tokenizer(words: Sequence[str], folder: Path) -> Any:
    """Writes the files into ``folder`` and returns the tokenizer that reads them."""
    from transformers import CLIPTokenizer

    write(words, folder)
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=LENGTH)
