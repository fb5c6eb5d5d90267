"""How far a student is from its teacher. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from zhcache.chinese.adapter.format import Argument, Quality
from zhcache.chinese.adapter.network import Resampler
from zhcache.chinese.adapter.pairs import Pair
from zhcache.chinese.adapter.teacher import Teacher

_BATCH = 32

Ask = Callable[[Sequence[str]], Mapping[str, torch.Tensor]]
"""From Chinese texts to a student's output: normalised, ``(texts, length, dim)`` by argument."""


def distance(
    output: Mapping[str, torch.Tensor],
    states: Mapping[str, torch.Tensor],
    resampler: Resampler,
    mask: str | None = None,
) -> torch.Tensor:
    """Returns the squared error in units of the teacher's variance, averaged over arguments.

    What never varies has no part in it; nor have states that the teacher's own mask hides.

    Args:
        output: The student's, normalised, ``(batch, length, dim)`` by argument.
        states: The teacher's, in its own space, of the same shapes.
        resampler: Knows the teacher's mean and spread.
        mask: The argument that says which positions count.
    """
    errors: list[torch.Tensor] = []
    for name, wanted in states.items():
        error = (output[name].float() - resampler.normalised(name, wanted)).square()
        weight = (resampler.spread(name) > 0).float().expand_as(error)
        if mask is not None and name != mask and wanted.shape[1] == states[mask].shape[1]:
            weight = weight * states[mask]
        errors.append((error * weight).sum() / weight.sum().clamp_min(1))
    return torch.stack(errors).mean()


@torch.no_grad()
def quality(
    ask: Ask,
    teacher: Teacher,
    resampler: Resampler,
    pairs: Sequence[Pair],
) -> Quality:
    """Returns error and retrieval accuracy on ``pairs``, whose English texts differ.

    Retrieval: of all the pairs' English texts, is the own one's states the nearest by cosine?
    """
    errors, given, wanted = 0.0, list[torch.Tensor](), list[torch.Tensor]()
    for start in range(0, len(pairs), _BATCH):
        part = pairs[start : start + _BATCH]
        output = ask([pair.zh for pair in part])
        states = teacher.states([pair.en for pair in part])
        errors += len(part) * float(distance(output, states, resampler, teacher.mask))
        normal = {name: resampler.normalised(name, one) for name, one in states.items()}
        given.append(_flat(output, teacher.arguments))
        wanted.append(_flat(normal, teacher.arguments))
    likeness = torch.cat(given) @ torch.cat(wanted).T
    hits = int((likeness.argmax(1).cpu() == torch.arange(len(pairs))).sum())
    count = len(pairs)
    return Quality(heldout_error=errors / count, retrieval=hits / count, pairs=count)


def _flat(output: Mapping[str, torch.Tensor], arguments: Mapping[str, Argument]) -> torch.Tensor:
    """Returns one vector a text, of length 1, of what is no mask."""
    parts = [
        output[name].float().flatten(1)
        for name, argument in arguments.items()
        if argument.kind != "mask"
    ]
    return torch.nn.functional.normalize(torch.cat(parts, dim=1), dim=1)
