"""Python values as JSON and bytes: arguments and results of a resident pipeline's calls.

Words, numbers, lists and plain dictionaries are themselves. What JSON does not know is an object
with the key ``$``, which names its kind; its bytes, where it has any, lie in one sealed memfd
beside the message (``zhcache.resident.blob``). Never a pickle. This is what both directions,
``encode`` and ``decode``, have in common.

Kinds: ``tuple`` ``dict`` ``float`` ``int`` ``image`` ``array`` ``tensor`` ``dtype`` ``generator``
``scheduler``.
"""

from __future__ import annotations

import math
from typing import Any

MAX_DEPTH = 32
"""Of lists within lists: a list that holds itself must end in an error."""

MAX_SIDE = 2**20
"""Pixels of an image's side."""

TAG = "$"

BYTES_PER_PIXEL = {
    "L": 1, "P": 1, "LA": 2, "PA": 2, "I;16": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3,
    "RGBA": 4, "RGBX": 4, "RGBa": 4, "CMYK": 4, "I": 4, "F": 4,
}  # fmt: skip
"""Of PIL's modes as ``tobytes`` writes them; ``1`` has eight pixels a byte, each row rounded up."""

DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes of one element, by torch's names."""


class RawTensor:
    """A tensor's bytes, where torch need not be: to be passed on, not to be looked at.

    Attributes:
        dtype: Torch's name without ``torch.``.
        shape: Its lengths.
        raw: All of it, in C order.
    """

    def __init__(self, dtype: str, shape: tuple[int, ...], raw: memoryview) -> None:
        self.dtype = dtype
        self.shape = shape
        self.raw = raw

    def reshape(self, *shape: int) -> RawTensor:
        """Returns the same bytes with other lengths, as torch's method does; none may be -1.

        Raises:
            ValueError: There are more or fewer elements.
        """
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"{self.shape} cannot become {shape}")
        return RawTensor(self.dtype, shape, self.raw)


class SchedulerChoice:
    """A scheduler as a call names it: a class of diffusers, and its config where one is given.

    Without a config it gets that of the pipeline's own scheduler.
    """

    def __init__(self, class_name: str, config: dict[str, Any] | None = None) -> None:
        self.class_name = class_name
        self.config = config


class Unread:
    """Stands for a result that this environment cannot hold, and says what it would take."""

    def __init__(self, kind: str, needs: str) -> None:
        self.kind = kind
        self.needs = needs
