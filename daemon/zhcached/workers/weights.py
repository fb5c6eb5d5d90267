"""The weights of a resident pipeline stay what they were loaded as, whatever a call does.

Some pipelines cast a component for a part of a call (SDXL its VAE to float32) and cast it back at
the end. A call that fails in between would leave the cast behind for everybody after it, and one
that succeeds still leaves private copies where shared memory was.
"""

from __future__ import annotations

from typing import Any

import torch


class Weights:
    """Remembers each parameter's memory; holds a reference, so that it is not freed meanwhile."""

    def __init__(self, pipeline: Any) -> None:
        self._kept = [
            (parameter, parameter.data)
            for part in pipeline.components.values()
            if isinstance(part, torch.nn.Module)
            for parameter in part.parameters()
        ]

    @property
    def bytes(self) -> int:
        """Of all parameters; tied ones count once."""
        return sum({kept.data_ptr(): kept.nbytes for _, kept in self._kept}.values())

    def restore(self) -> None:
        """Gives every parameter its memory back."""
        for parameter, kept in self._kept:
            if parameter.data_ptr() != kept.data_ptr() or parameter.dtype != kept.dtype:
                parameter.data = kept
