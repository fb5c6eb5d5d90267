"""Values into a message. Imports neither numpy nor torch nor diffusers.

A value of theirs can only be there if somebody imported them already.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from zhcache.errors import UsageError
from zhcache.resident.blob import BlobWriter
from zhcache.resident.values import BYTES_PER_PIXEL, DTYPES, MAX_DEPTH, TAG, RawTensor

_SMALL = 2**63
_VALUES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__), (int, int.__int__), (float, float.__float__),
)  # fmt: skip


class Encoder:
    """Encodes the values of one message; ``finish`` gives what goes beside it.

    Attributes:
        generators: Each ``torch.Generator`` met, once, in the order of the numbers they got.
    """

    def __init__(self) -> None:
        self._blob = BlobWriter()
        self.generators: list[Any] = []

    @property
    def bytes(self) -> int:
        """How many bytes lie beside the words so far."""
        return self._blob.bytes

    def finish(self) -> list[int]:
        """Returns the descriptors to send beside the message; they are the caller's."""
        return self._blob.finish()

    def encode(self, value: Any, name: str, depth: int = 0) -> Any:
        """Returns ``value`` as it goes into JSON.

        Args:
            value: Anything a pipeline's call takes or gives.
            name: What it is called, for an error.
            depth: Of nesting so far.

        Raises:
            UsageError: It cannot be sent.
        """
        if depth > MAX_DEPTH:
            raise UsageError("{name} is nested deeper than {limit}", name=name, limit=MAX_DEPTH)
        if value is None or isinstance(value, bool):
            return value
        if type(value) in (str, int, float):
            return _plain(value, name)
        if isinstance(value, list):
            return [self.encode(item, name, depth + 1) for item in value]
        if isinstance(value, tuple):
            return {TAG: "tuple", "items": [self.encode(v, name, depth + 1) for v in value]}
        if isinstance(value, dict):
            return self._dict(value, name, depth + 1)
        if isinstance(value, RawTensor):
            return {
                TAG: "tensor", "dtype": value.dtype, "shape": list(value.shape), "device": "cpu",
            } | self._bytes(value.raw)  # fmt: skip
        for module, encode in self._foreign:
            if module in sys.modules:
                encoded = encode(self, value, sys.modules[module], name)
                if encoded is not None:
                    return encoded
        if isinstance(value, (str, int, float)):
            # A subclass of a plain type, an IntEnum or numpy.float64: its value is what counts.
            # Past what the subclass makes of itself: str() of an Enum is its name.
            plain = next(plain for kind, plain in _VALUES if isinstance(value, kind))
            return _plain(plain(value), name)
        raise _cannot_be_sent(value, name)

    def _dict(self, value: dict[Any, Any], name: str, depth: int) -> Any:
        if all(type(key) is str for key in value) and TAG not in value:
            return {
                key: self.encode(item, f"{name}[{key!r}]", depth) for key, item in value.items()
            }
        pairs = [
            [self.encode(key, name, depth), self.encode(item, f"{name}[{key!r}]", depth)]
            for key, item in value.items()
        ]
        return {TAG: "dict", "items": pairs}

    def _pil(self, value: Any, module: Any, name: str) -> Any:
        if not isinstance(value, module.Image):
            return None
        if value.mode not in BYTES_PER_PIXEL and value.mode != "1":
            raise UsageError(
                "{name} is an image of mode {mode}, which cannot be sent",
                hint="convert it first: image.convert('RGB')",
                name=name,
                mode=value.mode,
            )
        encoded = {TAG: "image", "mode": value.mode, "size": list(value.size)}
        if value.mode in ("P", "PA"):
            mode = "RGBA" if value.palette is not None and value.palette.mode == "RGBA" else "RGB"
            encoded |= {"palette": value.getpalette(mode), "palette_mode": mode}
            transparent = value.info.get("transparency")
            if transparent is not None:
                many = isinstance(transparent, bytes)
                encoded["transparency"] = list(transparent) if many else transparent
        return encoded | self._bytes(value.tobytes())

    def _numpy(self, value: Any, module: Any, name: str) -> Any:
        if isinstance(value, module.generic):
            plain = value.item()
            if isinstance(plain, module.generic):
                # longdouble: Python has no number of that precision.
                raise _cannot_be_sent(value, name)
            return self.encode(plain, name, MAX_DEPTH)
        if not isinstance(value, module.ndarray):
            return None
        if value.dtype.kind not in "biufc":
            raise _cannot_be_sent(value, f"{name} (dtype {value.dtype})")
        plain = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return {
            TAG: "array", "dtype": plain.dtype.str, "shape": list(plain.shape),
        } | self._bytes(plain.tobytes())  # fmt: skip

    def _torch(self, value: Any, module: Any, name: str) -> Any:
        if isinstance(value, module.dtype):
            return {TAG: "dtype", "name": str(value).removeprefix("torch.")}
        if isinstance(value, module.Generator):
            return self._generator(value)
        if not isinstance(value, module.Tensor):
            return None
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES or value.layout is not module.strided:
            raise _cannot_be_sent(value, f"{name} (dtype {dtype}, layout {value.layout})")
        return {
            TAG: "tensor", "dtype": dtype, "shape": list(value.shape), "device": value.device.type,
        } | self._bytes(raw_bytes(value))  # fmt: skip

    def _generator(self, value: Any) -> Any:
        known = [number for number, one in enumerate(self.generators) if one is value]
        if known:
            return {TAG: "generator", "same_as": known[0]}
        self.generators.append(value)
        state = raw_bytes(value.get_state())
        return {TAG: "generator", "device": value.device.type} | self._bytes(state)

    def _diffusers(self, value: Any, _: Any, name: str) -> Any:
        if not type(value).__module__.startswith("diffusers.schedulers."):
            return None
        config = self.encode(dict(value.config), name, 1)
        return {TAG: "scheduler", "class_name": type(value).__name__, "config": config}

    def _bytes(self, raw: bytes | memoryview) -> dict[str, int]:
        return {"offset": self._blob.add(raw), "bytes": len(raw)}

    _foreign: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("PIL.Image", _pil),
        ("numpy", _numpy),
        ("torch", _torch),
        ("diffusers", _diffusers),
    )


def raw_bytes(tensor: Any) -> bytes:
    """Returns the bytes of a torch tensor ``(...)`` of any dtype and device, in C order."""
    # Imported here: clients without torch start sooner without it.
    import ctypes

    # By address: numpy may be absent, and it has no bfloat16.
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return ctypes.string_at(plain.data_ptr(), plain.nbytes) if plain.nbytes else b""


def _plain(value: str | int | float, name: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {TAG: "float", "value": str(value)}
    if isinstance(value, int) and not -_SMALL <= value < _SMALL:
        return {TAG: "int", "value": hex(value)}
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UsageError("{name} is not Unicode: {reason}", name=name, reason=error) from error
    return value


def _cannot_be_sent(value: object, name: str) -> UsageError:
    return UsageError(
        "{name} is a {kind}, which cannot be sent to a resident pipeline",
        hint="load the pipeline with mode='attach' to pass Python objects",
        name=name,
        kind=f"{type(value).__module__}.{type(value).__qualname__}",
    )
