"""Pictures of prompts and seeds by one way, and which of their attributes are really there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from scenes.reader import read
from scenes.world import ATTRIBUTES, Scene

BATCH = 12
"""Prompts of one call."""

Draw = Callable[[Sequence[str], list[torch.Generator]], Sequence[Any]]
"""Makes a picture of each prompt with its generator."""


@dataclass
class Found:
    """What the pictures of one way show.

    ``right[attribute][prompt]`` is the share of that prompt's pictures that have the attribute;
    ``unread`` counts pictures of which the reader could tell nothing at all.
    """

    right: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    pictures: int = 0
    unread: int = 0

    def shares(self) -> list[float]:
        """Returns the share of attributes that are there, one for each prompt."""
        columns = [self.right[name] for name in ATTRIBUTES]
        return [sum(row) / len(row) for row in zip(*columns, strict=True)]


def seed_of(prompt: int, number: int, seeds: int) -> int:
    """Returns the seed of a prompt's picture: the same for every way, another for each picture."""
    return prompt * seeds + number


def found(
    prompts: Sequence[str], scenes: Sequence[Scene], seeds: int, draw: Draw, say: Callable[..., Any]
) -> Found:
    """Makes ``seeds`` pictures of each prompt and reads them.

    Args:
        prompts: What is asked for, in the words of the way.
        scenes: What each prompt means.
        seeds: Pictures of each prompt.
        draw: The way.
        say: Told how far it is.
    """
    right = {name: [0.0] * len(prompts) for name in ATTRIBUTES}
    result = Found(right=right)
    todo = [(at, number) for number in range(seeds) for at in range(len(prompts))]
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        generators = [
            torch.Generator("cpu").manual_seed(seed_of(at, number, seeds)) for at, number in batch
        ]
        images = draw([prompts[at] for at, _ in batch], generators)
        for (at, _), image in zip(batch, images, strict=True):
            seen = read(image)
            result.pictures += 1
            result.unread += all(getattr(seen, name) is None for name in ATTRIBUTES)
            for name in ATTRIBUTES:
                right[name][at] += (getattr(seen, name) == getattr(scenes[at], name)) / seeds
        if start // BATCH % 20 == 0:
            say(f"{start}/{len(todo)} pictures")
    return result
