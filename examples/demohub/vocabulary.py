"""A vocabulary for CLIP's byte-level tokenizer, made by rule instead of learned.

Every byte has a token, so nothing is unknown: a Chinese character is three bytes of UTF-8 and
becomes two tokens, since its first two are merged. Needs nothing but the standard library.
"""

from __future__ import annotations

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_ENGLISH = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le "
    "ve co me de hi ri ro ic ne ea ra ce li ch ll be ma si om ur ph ot os ho la ai ow sh ee oo"
)


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte.

    Source: ``bytes_to_unicode`` of the GPT-2 and CLIP tokenizers.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    named = {byte: chr(byte) for byte in printable}
    return named | {byte: chr(256 + n) for n, byte in enumerate(others)}


def merges() -> list[tuple[str, str]]:
    """The pairs that become one token, in order of preference."""
    named = byte_characters()
    # 0xE3 to 0xE9 begin the CJK characters and their punctuation, 0xEF the full-width forms.
    chinese = [
        (named[lead], named[second])
        for lead in (*range(0xE3, 0xEA), 0xEF)
        for second in range(0x80, 0xC0)
    ]
    english = [(pair[0], pair[1]) for pair in _ENGLISH.split()]
    endings = [(first, second + _WORD_END) for first, second in english]
    return chinese + endings + english


def tokens() -> dict[str, int]:
    """Every token and its number: bytes, bytes that end a word, merged pairs, the two marks."""
    characters = list(byte_characters().values())
    named = characters + [character + _WORD_END for character in characters]
    named += [first + second for first, second in merges()]
    return {token: number for number, token in enumerate([*named, START, END])}
