"""What is to be placed: components, when each is used, and what calls take. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from zhcache.placement.activation import Needs, with_margin
from zhcache.placement.families import UNKNOWN, Family
from zhcache.placement.sizes import Part
from zhcache.protocol.sources import Phrase

Phase = Literal["encode", "denoise", "decode"]
PHASES: tuple[Phase, ...] = ("encode", "denoise", "decode")

_ROLES: tuple[tuple[Phase, re.Pattern[str]], ...] = (
    ("encode", re.compile(r"(?:text|image)_encoder.*|pe|prompt_enhancer|caption_encoder")),
    ("decode", re.compile(r".*vae.*|vqgan|vqvae|movq|safety_checker|vocoder")),
)


@dataclass(frozen=True)
class Model:
    """A pipeline.

    Attributes:
        parts: Its components that have weights, in the order of its index.
        needs: What calls take beside the weights.
        family: Of its denoiser.
        heads: Of its denoiser's attention; 0 where that is not known.
        pipeline: The class of the pipeline.
        there: Names of devices that hold the weights already, shared.
        notes: What is to be said of ``needs`` beside their number.
        tokens: Of one image or film in its denoiser, texts left out; 0 where that is not known.
        side: Pixels along a side of a token.
    """

    parts: Mapping[str, Part]
    needs: Needs
    family: Family = UNKNOWN
    heads: int = 0
    pipeline: str = ""
    there: frozenset[str] = field(default_factory=frozenset)
    notes: Sequence[Phrase] = ()
    tokens: int = 0
    side: int = 0

    @cached_property
    def bytes(self) -> int:
        """All weights."""
        return sum(part.bytes for part in self.parts.values())

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return max((part.largest for part in self.parts.values()), default=0)

    def named(self, phase: Phase) -> list[str]:
        """Returns the components of a phase."""
        return [name for name in self.parts if phase_of(name) == phase]

    def weights(self, names: Iterable[str]) -> int:
        """Returns the bytes of some components."""
        return sum(self.parts[name].bytes for name in names)

    def calls(self, names: Iterable[str], *, is_tiled: bool) -> int:
        """Returns what calls take at most where these components are, margin included."""
        phases: set[Phase] = {phase_of(name) for name in names}
        return max((self.call(phase, is_tiled=is_tiled) for phase in phases), default=0)

    def call(self, phase: Phase, *, is_tiled: bool) -> int:
        """Returns what a phase takes on the device that computes it, margin included."""
        decode = self.needs.decode_tiled if is_tiled else self.needs.decode
        return with_margin(
            {"encode": self.needs.encode, "denoise": self.needs.step, "decode": decode}[phase]
        )


def phase_of(name: str) -> Phase:
    """Returns when a component is used; what is not known is taken for part of the denoiser."""
    for phase, names in _ROLES:
        if names.fullmatch(name):
            return phase
    return "denoise"
