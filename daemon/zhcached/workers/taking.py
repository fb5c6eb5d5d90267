"""What a call takes of a GPU beside the weights, phase by phase, told of calls like anybody's.

Only where the weights lie in arenas, which are not torch's allocator's: what that allocates more in
a call than before it is the call's. Not what it reserves, which remembers the calls before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from zhcache.protocol.placement import SeenCall
from zhcache.protocol.residency import Call

if TYPE_CHECKING:
    import torch

_PLAIN = frozenset({
    "prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3",
    "width", "height", "num_frames", "num_inference_steps", "num_images_per_prompt",
    "num_videos_per_prompt", "guidance_scale", "true_cfg_scale", "output_type", "generator",
})  # fmt: skip
"""Arguments with which a call takes what its size and batch say, and no more or less."""

_DECODED = ("pil", "np", "pt")
_GUIDANCE = ("guidance_scale", "true_cfg_scale")

Highest = Callable[[], int]
"""Returns the most bytes beside the weights that there were at once since it was asked before."""


class Meter:
    """Reads what one call takes; made when it begins.

    Args:
        highest: Asked now and at the end of each phase.
        is_tiled: The autoencoder works in tiles.
    """

    def __init__(self, highest: Highest, *, is_tiled: bool) -> None:
        self._highest = highest
        self._is_tiled = is_tiled
        self._first: int | None = None
        self._steps = 0
        highest()

    def step(self) -> None:
        """Notes that a step is done."""
        most = self._highest()
        if self._first is None:
            self._first = most
        else:
            self._steps = max(self._steps, most)

    def seen(self, call: Call, fields: Mapping[str, Any]) -> SeenCall | None:
        """Returns what the call took, at its end; None where that says nothing of other calls.

        Args:
            call: As it was asked.
            fields: Its answer, encoded.
        """
        decode = self._highest()
        made = _made(fields)
        if self._first is None or made is None or not _is_plain(call):
            return None
        width, height, batch, frames = made
        # Of the first step the encoders' part cannot be told but by what it took more.
        is_apart = self._steps > 0 and self._first <= self._steps
        return SeenCall(
            width=width,
            height=height,
            batch=batch,
            frames=frames,
            encode=0 if is_apart else self._first,
            step=self._steps or self._first,
            decode=decode,
            is_tiled=self._is_tiled,
        )


def highest_on(device: torch.device) -> Highest:
    """Returns the reading of a GPU: bytes allocated beside those that are now, once it is loaded.

    What a call leaves there is the next one's too. The counts are the host's, so that nothing is
    waited for. Source: torch's "CUDA semantics", "Memory management".
    """
    import torch

    before = torch.cuda.memory_allocated(device)

    def highest() -> int:
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return max(most - before, 0)

    return highest


def is_tiled(pipeline: Any) -> bool:
    """Whether a pipeline's autoencoder works in tiles."""
    return bool(getattr(getattr(pipeline, "vae", None), "use_tiling", False))


def _is_plain(call: Call) -> bool:
    """Whether anybody's call of that size and batch would take as much."""
    given = call.arguments
    # Without guidance, half of it; embeddings of a client's own may be of any length.
    guidance = [given[name] for name in _GUIDANCE if given.get(name) is not None]
    return (
        given.keys() <= _PLAIN
        and all(isinstance(scale, int | float) and scale > 1 for scale in guidance)
        and given.get("output_type", "pil") in _DECODED
        and call.pipeline is None
        and call.conditions is None
        and isinstance(call.scheduler, str | None)
    )


def _made(fields: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Returns width, height, how many and their frames of what came out, None where it is neither.

    Images and films are lists, or ``(b, h, w, c)`` and ``(b, f, h, w, c)`` arrays, or
    ``(b, c, h, w)`` and ``(b, f, c, h, w)`` tensors.
    """
    match fields:
        case {"images": found} if (shape := _shape(found)) and len(shape) == 3:
            batch, height, width = shape
            return width, height, batch, 1
        case {"frames": found} if (shape := _shape(found)) and len(shape) == 4:
            batch, frames, height, width = shape
            return width, height, batch, frames
        case _:
            return None


def _shape(found: Any) -> list[int] | None:
    """Returns the lengths of encoded images, without the one of their colours."""
    match found:
        case {"$": "image", "size": [width, height]}:
            return [height, width]
        case {"$": "array", "shape": [*lengths, _]}:
            return lengths
        case {"$": "tensor", "shape": [*lengths, _, height, width]}:
            return [*lengths, height, width]
        case [first, *_]:
            inner = _shape(first)
            return None if inner is None else [len(cast("Sequence[Any]", found)), *inner]
        case _:
            return None
