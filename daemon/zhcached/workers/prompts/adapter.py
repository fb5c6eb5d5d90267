"""An adapter: what a base model's encoders would say, from a Chinese encoder's states."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from zhcache.chinese.adapter import network
from zhcache.chinese.wording import plain
from zhcached.workers.prompts.question import Turn


class Adapted:
    """Reads texts through an adapter."""

    def __init__(self, adapter: network.Adapter) -> None:
        self.model = adapter.student
        self._adapter = adapter

    def answer(self, turn: Turn) -> dict[str, Any]:
        """Returns ``embeds`` by the call's arguments, a tensor a text, and what was ``cut``."""
        embeds: dict[str, list[torch.Tensor]] = defaultdict(list)
        cut: list[str] = []
        about = self._adapter.about
        # One by one: what a text's states are must not hang on what stands beside it.
        for text in turn.question.texts:
            turn.check()
            worded = plain(text) if about.simplified else text
            found, rest = self._adapter.encode([worded], chunks=turn.question.chunks)
            for name, states in found.items():
                embeds[name] += states
            cut += rest
        return {"embeds": dict(embeds), "cut": cut, "name": about.name}


def load(folder: Path) -> Adapted:
    """Returns the adapter in ``folder``.

    Raises:
        IntegrityError: Its files are not what its description says.
        VersionMismatch: It is of a later format.
    """
    return Adapted(network.load(folder))
