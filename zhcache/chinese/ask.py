"""Asks the daemon and its prompt workers: what is held, and what a model makes of texts.

A prompt worker is held as a resident pipeline is, by a connection. All pipelines of this process
share one to each model; it ends with the last of them.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zhcache import paths
from zhcache.errors import VersionMismatch
from zhcache.protocol.prompts import ChineseChoices, PromptModel
from zhcache.protocol.residency import Call, ResidentRequest, Returned
from zhcache.resident.conversation import Conversation
from zhcache.resident.decode import Decoder
from zhcache.resident.session import Session


@dataclass(frozen=True)
class Answer:
    """What a prompt model made of texts, in their order.

    Attributes:
        texts: A translator's.
        embeds: Another's, by argument: ``(chunks, length, dim)``, pooled ``(dim,)``; torch's
            tensors, or ``RawTensor`` where that was asked for.
        cut: Of each text the end that was not read.
    """

    texts: Sequence[str]
    embeds: Mapping[str, Sequence[Any]]
    cut: Sequence[str]


class Asking:
    """A connection to one prompt model's worker; thread-safe. Ends when nobody has it any more."""

    def __init__(self, model: PromptModel) -> None:
        request = ResidentRequest(
            repo=model.repo, revision=model.commit, device="cpu", role="prompts"
        )
        socket = paths.socket_path()
        self._session = Session(socket, request, Conversation(socket, request))
        self._end = weakref.finalize(self, self._session.end)

    def ask(
        self, texts: Sequence[str], *, chunks: bool = False, keep: Sequence[str] = (), raw: bool
    ) -> Answer:
        """Returns what the model makes of ``texts``.

        Args:
            texts: Any, the empty one too.
            chunks: Whether what is too long is read in pieces.
            keep: Words that a translator leaves as they are.
            raw: Tensors are to be ``RawTensor``, where torch may be absent.

        Raises:
            ZhcacheError: What the daemon or its worker reported.
        """
        arguments: dict[str, Any] = {"texts": list(texts), "chunks": chunks}
        if keep:
            arguments["keep"] = list(keep)

        def make(number: int) -> tuple[Call, list[int]]:
            return Call(id=number, arguments=arguments), []

        def read(answer: Returned, fds: list[int]) -> dict[str, Any]:
            decoder = Decoder(fds, raw=raw)
            return {name: decoder.decode(value) for name, value in answer.fields.items()}

        fields = self._session.call(make, lambda _: None, read)
        made = Answer(
            fields.get("texts", ()),
            fields.get("embeds", {}),
            fields.get("cut") or [""] * len(texts),
        )
        if any(len(each) != len(texts) for each in (made.cut, *made.embeds.values())):
            raise VersionMismatch(
                "the prompt worker answered about other texts than it was asked about",
                hint="bring both to the same version of zhcache",
            )
        return made


_live: weakref.WeakValueDictionary[tuple[str, str, str], Asking] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def asking(model: PromptModel) -> Asking:
    """Returns this process's connection to a model, opened if there is none.

    Raises:
        NotFound: It is not held any more.
        ZhcacheError: What else the daemon reported.
    """
    key = (str(paths.socket_path()), model.repo, model.commit)
    with _lock:
        known = _live.get(key)
        if known is None:
            known = _live[key] = Asking(model)
        return known


def _forget_lock() -> None:
    """Lets go of a lock that a thread of the parent's held, which the child does not have."""
    global _lock  # noqa: PLW0603 - a lock has no other way to be new
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_lock)


def choices(repo: str, commit: str, variant: str | None) -> ChineseChoices:
    """Returns what is held that reads Chinese for a snapshot.

    Raises:
        NotFound: It is not in the store.
        ZhcacheError: What else the daemon reported.
    """
    from zhcache.client import Client

    with Client() as client:
        return client.chinese(repo, revision=commit, variant=variant)
