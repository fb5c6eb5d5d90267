"""Training: steps that repeat, and what has to be kept so that they go on elsewhere.

What a step does follows from the recipe and its number alone: which pairs it takes, its rate, its
random numbers. So a training that went on from a checkpoint is the one that was never broken off.
Imports torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call

from zhcache.chinese.adapter import network
from zhcache.chinese.adapter.measuring import distance
from zhcache.chinese.adapter.pairs import Pair, Split
from zhcache.chinese.adapter.student import Reader
from zhcache.chinese.adapter.teacher import Teacher

EMPTY = Pair(en="", zh="")
"""Always in a batch: with guidance half of all that a denoiser sees is the empty prompt."""

_WARM_SHARE, _WARM_MOST = 0.05, 1000
_AVERAGE = 0.999
_CLIP = 1.0
_KNOWN_SHARE = 0.1
"""An encoder that was trained before moves at this share of the resampler's rate."""


@dataclass(frozen=True)
class Pace:
    """How it is trained.

    Attributes:
        steps: In all.
        batch: Pairs a step.
        rate: The highest learning rate; reached after a warm-up, a half cosine to 0 follows.
        seed: Of the pairs' order.
        autocast: What is computed in; None: float32.
    """

    steps: int
    batch: int
    rate: float
    seed: int
    autocast: torch.dtype | None = None


class Training:
    """A student, its running average, and how it is changed.

    Attributes:
        step: How many steps were made.
        student: What is trained.
    """

    def __init__(
        self,
        student: network.Student,
        reader: Reader,
        teacher: Teacher,
        pace: Pace,
        *,
        is_frozen: bool,
        wording: Callable[[str], str],
    ) -> None:
        self.step = 0
        self.student = student
        self._reader = reader
        self._teacher = teacher
        self._pace = pace
        self._wording = wording
        if is_frozen:
            student.encoder.requires_grad_(False)
        self._is_frozen = is_frozen
        self._drawing = [self._device] if self._device.type == "cuda" else []
        self._trained = {
            name: parameter for name, parameter in student.named_parameters()
            if parameter.requires_grad
        }  # fmt: skip
        self._average = {name: one.detach().clone() for name, one in self._trained.items()}
        is_known = reader.folder is not None
        groups = [
            {"params": [one], "share": _KNOWN_SHARE if is_known and _of_encoder(name) else 1.0}
            for name, one in self._trained.items()
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=pace.rate, betas=(0.9, 0.98))
        is_half = pace.autocast == torch.float16
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=is_half)

    @property
    def _device(self) -> torch.device:
        return self.student.resampler.queries.device

    def advance(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Makes one step on ``pairs`` and the empty one; returns their distance before it."""
        pairs = [*pairs, EMPTY]
        states = self._teacher.states([pair.en for pair in pairs])
        self.student.train()
        if self._is_frozen:
            self.student.encoder.eval()
        with torch.random.fork_rng(devices=self._drawing):
            # An encoder with dropout draws the same whether or not it began here.
            torch.manual_seed(self._pace.seed * 1_000_003 + self.step)
            output = self._run(self._trained, [pair.zh for pair in pairs])
        loss = distance(output, states, self.student.resampler, self._teacher.mask)
        self._change(loss)
        return loss.detach()

    @torch.no_grad()
    def ask(self, texts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """Returns what the average of the student makes of texts, as they were written."""
        self.student.eval()
        return self._run(self._average, texts)

    def settle(self) -> network.Student:
        """Returns the student with its average in place of the last step's weights."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(self._average[name])
        return self.student.eval()

    def _run(
        self, weights: Mapping[str, torch.Tensor], texts: Sequence[str]
    ) -> Mapping[str, torch.Tensor]:
        worded = [self._wording(text) for text in texts]
        return asked(self.student, self._reader, worded, self._pace.autocast, weights)

    def _change(self, loss: torch.Tensor) -> None:
        share = rate(self.step, self._pace.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._pace.rate * share * group["share"]
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._trained.values(), _CLIP)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1
        # At first the average follows at once: it began with weights that know nothing.
        keep = min(_AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self._trained.items():
                self._average[name].lerp_(parameter, 1 - keep)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns all that changes, and what was measured of the teacher."""
        found = {f"model/{name}": one for name, one in self._trained.items()}
        found |= {f"measured/{name}": one for name, one in self.student.resampler.named_buffers()}
        found |= {f"average/{name}": one for name, one in self._average.items()}
        for name, parameter in self._trained.items():
            kept = self._optimizer.state.get(parameter, {})
            found |= {f"optimizer/{key}/{name}": one for key, one in kept.items()}
        scaler: dict[str, Any] = self._scaler.state_dict()
        for key in ("scale", "_growth_tracker"):
            if key in scaler:
                found[f"scaler/{key}"] = torch.tensor(float(scaler[key]))
        return found

    def restore(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Goes on after ``step``, with what ``tensors`` returned then.

        Raises:
            KeyError: One is missing.
            RuntimeError: One has another shape.
        """
        with torch.no_grad():
            for name, buffer in self.student.resampler.named_buffers():
                buffer.copy_(tensors[f"measured/{name}"])
            for name, parameter in self._trained.items():
                parameter.copy_(tensors[f"model/{name}"])
                self._average[name].copy_(tensors[f"average/{name}"])
                if step:
                    self._optimizer.state[parameter] = {
                        key: tensors[f"optimizer/{key}/{name}"].to(
                            "cpu" if key == "step" else self._device
                        )
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        if "scaler/scale" in tensors and self._scaler.is_enabled():
            growth = int(tensors["scaler/_growth_tracker"])
            known: dict[str, Any] = self._scaler.state_dict()
            changed = {"scale": float(tensors["scaler/scale"]), "_growth_tracker": growth}
            self._scaler.load_state_dict(known | changed)
        self.step = step


def asked(
    student: network.Student,
    reader: Reader,
    texts: Sequence[str],
    autocast: torch.dtype | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Mapping[str, torch.Tensor]:
    """Returns what a student makes of texts: normalised, ``(texts, length, dim)`` by argument.

    Args:
        student: It.
        reader: Has the tokenizer.
        texts: In the wording that it knows.
        autocast: What is computed in; None: float32.
        weights: In place of its own, those that are named here.
    """
    device = student.resampler.queries.device
    ids, mask = network.tokens(reader.tokenizer, texts, reader.about)
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        inputs = (ids.to(device), mask.to(device))
        return functional_call(student, dict(weights or {}), inputs)


class Batches:
    """Which pairs each step takes: every epoch all of them, each in another order.

    Args:
        pairs: What there is; of what is held out none is taken.
        batch: Pairs a step.
        seed: Of the orders.
    """

    def __init__(self, pairs: Split, batch: int, seed: int) -> None:
        self._pairs = pairs
        self._batch = batch
        self._seed = seed
        self._order = functools.lru_cache(2)(self._drawn)

    def of(self, step: int) -> list[Pair]:
        """Returns the pairs of one step, counted from 0."""
        count = len(self._pairs.training)
        places = (divmod(step * self._batch + n, count) for n in range(self._batch))
        found = (self._pairs.training[int(self._order(epoch)[place])] for epoch, place in places)
        return [pair for pair in found if not self._pairs.is_held(pair)]

    def _drawn(self, epoch: int) -> torch.Tensor:
        drawn = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        return torch.randperm(len(self._pairs.training), generator=drawn)


def rate(step: int, steps: int) -> float:
    """Returns the share of the highest learning rate that a step has, counted from 0. Pure."""
    warm = max(1, min(int(steps * _WARM_SHARE), _WARM_MOST))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _of_encoder(name: str) -> bool:
    return name.startswith("encoder.")
