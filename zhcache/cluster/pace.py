"""How long calls and loads take on a node, as lately seen. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_WEIGHT = 0.3
"""Of what was seen last in the running mean: a change of size or steps shows after a few calls."""


class Pace:
    """Running means, in seconds. Not thread-safe: its owner's lock is."""

    def __init__(self) -> None:
        self._calls: dict[str, float] = {}
        self.load_s = 0.0
        self.usual_s = 0.0

    @property
    def call_s(self) -> Mapping[str, float]:
        """What a call of each model takes."""
        return MappingProxyType(self._calls)

    def called(self, model: str, seconds: float) -> None:
        """Takes in what a call took."""
        self._calls[model] = _mean(self._calls.get(model, 0.0), seconds)
        self.usual_s = _mean(self.usual_s, seconds)

    def loaded(self, seconds: float) -> None:
        """Takes in what it took until a model could be called."""
        self.load_s = _mean(self.load_s, seconds)


def _mean(before: float, seconds: float) -> float:
    return seconds if before == 0.0 else before + _WEIGHT * (seconds - before)
