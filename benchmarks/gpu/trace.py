"""What every module of a pipeline computed in one call, and which kernels ran."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch

MODULES_MAX = 4000
"""Outputs remembered; of each only a digest and a few numbers stay."""


@dataclass
class Run:
    """One call: what each leaf module returned, in order, and the kernels' names.

    Attributes:
        outputs: (module, digest of what went in, digest of what came out).
        kernels: Names, without those that only move memory.
        places: Of each module, where its weight lies modulo 512.
    """

    outputs: list[tuple[str, str, str]] = field(default_factory=list)
    kernels: set[str] = field(default_factory=set)
    places: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Where two runs part."""

    module: str
    reason: str
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()

    def __str__(self) -> str:
        kernels = "".join(
            f"\n  - only {who}: `{name[:160]}`"
            for who, names in (("stock", self.only_first), ("here", self.only_second))
            for name in names[:12]
        )
        return f"`{self.module}`: {self.reason}{kernels}"


def run(pipeline: Any, options: Any) -> Run:
    """Returns what happens in one call of one step."""
    seen = Run()
    hooks = []
    for part, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        for name, leaf in module.named_modules():
            if not list(leaf.children()):
                hooks.append(leaf.register_forward_hook(_noting(seen, f"{part}.{name}")))
                weight = getattr(leaf, "weight", None)
                if isinstance(weight, torch.Tensor):
                    seen.places[f"{part}.{name}"] = weight.data_ptr() % 512
    try:
        with _profiled(options.device) as profile:
            pipeline(
                "a b c",
                num_inference_steps=1,
                height=options.size,
                width=options.size,
                generator=torch.Generator("cpu").manual_seed(0),
                output_type="pt",
            )
    finally:
        for hook in hooks:
            hook.remove()
    if profile is not None:
        on_device = (event for event in profile.events() if event.device_type.name == "CUDA")
        moves = ("Memcpy", "Memset")
        seen.kernels = {e.name for e in on_device if not e.name.startswith(moves)}
    return seen


def compare(first: Run, second: Run) -> Difference:
    """Returns where ``second`` parts from ``first``, whose images differ."""
    kernels = (
        tuple(sorted(first.kernels - second.kernels)),
        tuple(sorted(second.kernels - first.kernels)),
    )
    if len(first.outputs) != len(second.outputs):
        return Difference("", "another number of modules ran", *kernels)
    for one, other in zip(first.outputs, second.outputs, strict=True):
        name = one[0]
        if one[0] != other[0]:
            return Difference(name, f"{other[0]} ran in its place", *kernels)
        if one[2] != other[2]:
            place = f"its weight lies at {first.places.get(name)} and {second.places.get(name)}"
            inputs = "the same input" if one[1] == other[1] else "another input already"
            return Difference(name, f"{inputs}, another output; modulo 512 {place}", *kernels)
    return Difference("", "every module gave the same in the traced call", *kernels)


def _noting(seen: Run, name: str) -> Any:
    def note(_: Any, inputs: Any, output: Any) -> None:
        if len(seen.outputs) < MODULES_MAX:
            before = "".join(_digest(one) for one in inputs)
            first = output[0] if isinstance(output, tuple) else output
            seen.outputs.append((name, before, _digest(first)))

    return note


def _digest(value: Any) -> str:
    """Returns a digest of a tensor's bits."""
    if not isinstance(value, torch.Tensor) or not value.numel():
        return "-"
    raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(raw.numpy(), digest_size=8).hexdigest()


class _profiled:  # noqa: N801 - reads as a phrase
    """A profile of kernels on a GPU; nothing on the CPU, where they have no names."""

    def __init__(self, device: str) -> None:
        from torch.profiler import ProfilerActivity, profile

        self._profile = None if device == "cpu" else profile(activities=[ProfilerActivity.CUDA])

    def __enter__(self) -> Any:
        return None if self._profile is None else self._profile.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._profile is not None:
            torch.cuda.synchronize()
            self._profile.__exit__(*error)
