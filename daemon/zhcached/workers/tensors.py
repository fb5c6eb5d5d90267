"""Tensors in files: what a safetensors header says of them, checked before anything believes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: Its key.
        dtype: As safetensors spells it.
        shape: Its shape.
        start: Where its bytes start in the file.
        end: Where they end.
        file: The file's path below the component's folder.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    file: str

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.end - self.start
