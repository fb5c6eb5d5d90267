"""What is asked of a prompt worker: texts, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from zhcache.errors import UsageError
from zhcached.workers.failures import Stopped

MAX_TEXT = 20_000
"""Characters of one text. Prompts have hundreds; a novel would keep everybody waiting."""

MAX_TEXTS = 1024

_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a call.

    Attributes:
        texts: What is to be read.
        chunks: Whether a text past the encoder's length is read in several pieces.
        keep: Words that a translation leaves as they are.
    """

    texts: Annotated[list[_Text], msgspec.Meta(max_length=MAX_TEXTS)]
    chunks: bool = False
    keep: Annotated[list[_Word], msgspec.Meta(max_length=256)] = []


class Turn:
    """A question while it is answered; ``check`` is called between its parts."""

    def __init__(self, question: Question, is_cancelled: Callable[[], bool]) -> None:
        self.question = question
        self.is_cancelled = is_cancelled

    def check(self) -> None:
        """Raises Stopped once nobody waits for the answer any more."""
        if self.is_cancelled():
            raise Stopped


def question(arguments: dict[str, Any]) -> Question:
    """Returns what a call's arguments ask.

    Raises:
        UsageError: They are not those of a prompt worker.
    """
    try:
        return msgspec.convert(arguments, Question)
    except msgspec.ValidationError as error:
        raise UsageError(
            "the prompt worker cannot be asked this: {reason}",
            hint="it takes at most {count} texts of at most {limit} characters each",
            reason=error,
            count=MAX_TEXTS,
            limit=MAX_TEXT,
        ) from error
