"""The file of parallel captions: JSON lines, ``{"en": "a red circle", "zh": "红色的圆"}``.

Files of twenty million lines are read where they lie: only where each line begins is kept. Imports
no torch.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from zhcache.errors import IntegrityError, NotFound, UsageError

MAX_LINE_BYTES = 64 * 1024
BAD_SHARE = 0.01
NAMED = 10
_MOST = MAX_LINE_BYTES + 2
"""Of a line that is read at once: the longest, and its end."""

_MARK = b"\xef\xbb\xbf"
_TOLD_EVERY = 200_000


class Pair(msgspec.Struct, frozen=True):
    """An English caption and its Chinese."""

    en: str
    zh: str


class PairFile:
    """A file of pairs, checked line by line as it is opened, read in any order after.

    Attributes:
        sha256: Of the file's bytes.
        bad: How many lines are no pairs; they are left out. Empty lines do not count.
        named: The numbers of the first of them, from 1 on.

    Args:
        path: The file; UTF-8, with or without a byte order mark, lines ending in LF or CRLF.
        on_lines: Told how many lines were read, now and then.

    Raises:
        NotFound: There is no such file.
        UsageError: There is no pair in it.
        IntegrityError: More than one line of a hundred is bad.
    """

    def __init__(self, path: Path, on_lines: Callable[[int], object] | None = None) -> None:
        self.path = path
        self.bad = 0
        self.named: list[int] = []
        self._starts = array("Q")
        self._decoder = msgspec.json.Decoder(Pair)
        try:
            # Read, not mapped: whoever cuts a mapped file short ends the process that reads it.
            self._file = path.open("rb")
            self.sha256 = self._scan(on_lines or (lambda _: None))
        except OSError as error:
            raise NotFound(
                "the pairs in {path} cannot be read: {reason}", path=path, reason=error.strerror
            ) from None
        self._check()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Pair:
        self._file.seek(self._starts[index])
        found = self._pair(self._file.readline(_MOST))
        if found is None:
            raise IntegrityError(
                "{path} was changed while it was being read",
                hint="train from a copy that stays as it is",
                path=self.path,
            )
        return found

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))

    def _scan(self, on_lines: Callable[[int], object]) -> str:
        digest, number, start = hashlib.sha256(), 0, 0
        while line := self._file.readline(_MOST):
            digest.update(line)
            number += 1
            if self._pair(line) is not None:
                self._starts.append(start)
            elif line.removeprefix(_MARK).strip():
                self.bad += 1
                self.named += [number] if len(self.named) < NAMED else []
            while line and not line.endswith(b"\n"):
                line = self._file.readline(_MOST)
                digest.update(line)
            start = self._file.tell()
            if number % _TOLD_EVERY == 0:
                on_lines(number)
        return digest.hexdigest()

    def _pair(self, line: bytes) -> Pair | None:
        if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            return None
        try:
            pair = self._decoder.decode(line.removeprefix(_MARK))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return pair if pair.en.strip() and pair.zh.strip() else None

    def _check(self) -> None:
        lines = ", ".join(map(str, self.named))
        if self.bad > BAD_SHARE * (len(self) + self.bad):
            raise IntegrityError(
                "{bad} of {count} lines of {path} are no pairs, the first of them: {lines}",
                hint='a line is one JSON object with the texts "en" and "zh"',
                bad=self.bad,
                count=len(self) + self.bad,
                path=self.path,
                lines=lines,
            )
        if not len(self):
            raise _empty(self.path)


class Split:
    """Pairs to train on and pairs that are held out.

    Attributes:
        training: Pairs to train on; those whose English or Chinese is held out are not to be used.
        held: Those that are held out; no English text twice.
    """

    def __init__(self, training: PairFile, held: list[Pair]) -> None:
        self.training = training
        self.held = held
        self._texts = {text for pair in held for text in (pair.en, pair.zh)}

    def is_held(self, pair: Pair) -> bool:
        """Tells whether a pair must not be trained on."""
        return pair.en in self._texts or pair.zh in self._texts


def split(pairs: PairFile, held_out: int | PairFile, seed: int) -> Split:
    """Returns what is trained on, and what is held out.

    Args:
        pairs: What there is.
        held_out: How many of them, drawn by ``seed``; or a file of their own.
        seed: Any number.

    Raises:
        UsageError: Nothing would be left on one side.
    """
    if isinstance(held_out, PairFile):
        found = {pair.en: pair for pair in held_out}
    else:
        found: dict[str, Pair] = {}
        drawn = random.Random(seed)  # noqa: S311 - a draw that repeats, not a secret
        # Of files with few texts that repeat, that many may not be there.
        for index in drawn.sample(range(len(pairs)), min(len(pairs) // 5, 4 * held_out)):
            if len(found) < held_out:
                found.setdefault(pairs[index].en, pairs[index])
    parts = Split(pairs, list(found.values()))
    if not parts.held or all(parts.is_held(pair) for pair in pairs):
        raise UsageError(
            "{path} has {count} pairs, too few to hold some of them out",
            hint="give more pairs, or --held-out FILE",
            path=pairs.path,
            count=len(pairs),
        )
    return parts


def _empty(path: Path) -> UsageError:
    return UsageError(
        "there is no pair in {path}",
        hint='a line is one JSON object with the texts "en" and "zh"',
        path=path,
    )
