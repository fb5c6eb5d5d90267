"""Values out of a message. What comes from a client is checked here, before anything is allocated.

numpy and torch are imported only where a value needs them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from zhcache.errors import UsageError
from zhcache.resident.blob import BlobReader
from zhcache.resident.values import (
    BYTES_PER_PIXEL,
    DTYPES,
    MAX_SIDE,
    TAG,
    RawTensor,
    SchedulerChoice,
    Unread,
)


class Decoder:
    """Decodes the values of one message; the descriptors may be closed once this is made.

    Args:
        fds: What came beside the message.
        device: Where values go that were not on the sender's CPU; None leaves all on this one's.
        lenient: Values that need a library which is not installed become ``Unread``.
        raw: Tensors stay their bytes, ``RawTensor``, and need no torch.

    Attributes:
        generators: The generators made, in the order of their numbers.

    Raises:
        UsageError: The descriptors are not what belongs beside values.
    """

    def __init__(
        self, fds: Sequence[int], *, device: Any = None, lenient: bool = False, raw: bool = False
    ) -> None:
        self._blob = BlobReader(fds)
        self._device = device
        self._lenient = lenient
        self._is_raw = raw
        self.generators: list[Any] = []

    def decode(self, encoded: Any) -> Any:
        """Returns the value that ``encoded`` stands for.

        Raises:
            UsageError: It is malformed, or needs a library that is not here.
        """
        try:
            return self._value(encoded)
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError("a value is malformed: {reason}", reason=error) from error

    def _value(self, encoded: Any) -> Any:
        if isinstance(encoded, list):
            return [self._value(item) for item in encoded]
        if not isinstance(encoded, dict):
            return encoded
        if TAG not in encoded:
            return {key: self._value(item) for key, item in encoded.items()}
        decode = self._kinds.get(encoded[TAG])
        if decode is None:
            raise ValueError(f"no kind {str(encoded[TAG])[:40]!r}")
        try:
            return decode(self, encoded)
        except ImportError as error:
            if self._lenient:
                return Unread(encoded[TAG], error.name or str(error))
            raise UsageError("{library} is not installed here", library=error.name) from error

    def _image(self, encoded: dict[str, Any]) -> Any:
        from PIL import Image

        mode, (width, height) = encoded["mode"], encoded["size"]
        row = -(-width // 8) if mode == "1" else width * BYTES_PER_PIXEL[mode]
        if (
            not 0 <= min(width, height) <= max(width, height) <= MAX_SIDE
            or row * height != encoded["bytes"]
        ):
            raise ValueError(f"{encoded['bytes']} bytes for {width} by {height} of {mode}")
        image = Image.frombytes(mode, (width, height), bytes(self._raw(encoded)))
        if encoded.get("palette"):
            image.putpalette(encoded["palette"], _palette_mode(encoded))
        if "transparency" in encoded:
            many = isinstance(encoded["transparency"], list)
            image.info["transparency"] = (
                bytes(encoded["transparency"]) if many else operator.index(encoded["transparency"])
            )
        return image

    def _array(self, encoded: dict[str, Any]) -> Any:
        import numpy

        dtype = numpy.dtype(encoded["dtype"])
        if dtype.kind not in "biufc":
            raise ValueError(f"dtype {dtype}")
        return numpy.frombuffer(self._sized(encoded, dtype.itemsize), dtype).reshape(
            encoded["shape"]
        )

    def _tensor(self, encoded: dict[str, Any]) -> Any:
        raw = self._sized(encoded, DTYPES[encoded["dtype"]])
        if self._is_raw:
            return RawTensor(encoded["dtype"], tuple(encoded["shape"]), raw)
        import torch

        dtype = getattr(torch, encoded["dtype"])
        if not raw:
            return torch.empty(encoded["shape"], dtype=dtype)
        made = torch.frombuffer(raw, dtype=dtype).reshape(encoded["shape"])
        is_here = self._device is None or encoded["device"] == "cpu"
        return made if is_here else made.to(self._device)

    def _dtype(self, encoded: dict[str, Any]) -> Any:
        import torch

        if encoded["name"] not in DTYPES:
            raise ValueError(f"dtype {encoded['name']}")
        return getattr(torch, encoded["name"])

    def _generator(self, encoded: dict[str, Any]) -> Any:
        import torch

        if "same_as" in encoded:
            return self.generators[operator.index(encoded["same_as"])]
        try:
            is_cpu = encoded["device"] == "cpu"
            made = torch.Generator("cpu" if is_cpu else self._device or encoded["device"])
            made.set_state(torch.frombuffer(self._raw(encoded), dtype=torch.uint8).clone())
        except RuntimeError as error:
            raise ValueError(f"generator: {error}") from error
        self.generators.append(made)
        return made

    def _scheduler(self, encoded: dict[str, Any]) -> SchedulerChoice:
        return SchedulerChoice(encoded["class_name"], self._value(encoded["config"]))

    def _sized(self, encoded: dict[str, Any], item: int) -> memoryview:
        shape = [operator.index(length) for length in encoded["shape"]]
        if min(shape, default=0) < 0 or math.prod(shape) * item != encoded["bytes"]:
            raise ValueError(f"{encoded['bytes']} bytes for shape {shape}")
        return self._raw(encoded)

    def _raw(self, encoded: dict[str, Any]) -> memoryview:
        return self._blob.piece(encoded["offset"], encoded["bytes"])

    _kinds: ClassVar[dict[Any, Callable[..., Any]]] = {
        "tuple": lambda self, e: tuple(self._value(item) for item in e["items"]),
        "dict": lambda self, e: {self._value(k): self._value(v) for k, v in e["items"]},
        "float": lambda _, e: float(e["value"]),
        "int": lambda _, e: int(e["value"], 16),
        "image": _image,
        "array": _array,
        "tensor": _tensor,
        "dtype": _dtype,
        "generator": _generator,
        "scheduler": _scheduler,
    }


def _palette_mode(encoded: dict[str, Any]) -> str:
    mode = encoded.get("palette_mode", "RGB")
    if mode not in ("RGB", "RGBA"):
        raise ValueError(f"a palette of {str(mode)[:40]!r}")
    return mode
