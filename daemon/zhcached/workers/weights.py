"""The models of a resident pipeline stay what they were loaded as, whatever a call does.

Some pipelines cast a component for a part of a call (SDXL its VAE to float32) and cast it back at
the end; those with perturbed attention put processors of their own into the denoiser. A call that
fails or is cancelled in between would leave that behind for everybody after it, and a cast that
succeeds still leaves private copies where shared memory was.
"""

from __future__ import annotations

from typing import Any

import torch

from zhcache.pipeline import wrapping


class Weights:
    """Remembers each parameter's and buffer's memory, and which object computes which attention.

    Holds a reference to each, so that it is not freed meanwhile.
    """

    def __init__(self, pipeline: Any) -> None:
        parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
        modules: list[Any] = [module for part in parts for module in part.modules()]
        self._kept = [(one, one.data) for part in parts for one in part.parameters()]
        # Of one that wraps others the data are a new wrapper each time: those are what counts.
        self._inner = [(one, wrapping.inner(one)) for one, _ in self._kept]
        self._buffers = [
            (module, name, buffer) for module in modules for name, buffer in module._buffers.items()
        ]
        self._processors = [
            (module, module.processor)
            for module in modules
            if hasattr(module, "set_processor") and hasattr(module, "processor")
        ]

    @property
    def bytes(self) -> int:
        """Of all parameters; tied ones count once."""
        held = [part for _, kept in self._kept for part in wrapping.memory(kept)]
        return sum({part.data_ptr(): part.nbytes for part in held}.values())

    def restore(self) -> None:
        """Gives everything back what it was loaded with."""
        # Before the parameters: a processor may have some of its own.
        for module, processor in self._processors:
            if module.processor is not processor:
                module.set_processor(processor)
        for parameter, inner in self._inner:
            for field, part in inner.items():
                if getattr(parameter, field) is not part:
                    setattr(parameter, field, part)
        for parameter, kept in self._kept:
            if wrapping.inner(parameter):
                continue
            if parameter.data_ptr() != kept.data_ptr() or parameter.dtype != kept.dtype:
                parameter.data = kept
        for module, name, buffer in self._buffers:
            if module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
