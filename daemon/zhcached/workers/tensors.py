"""Tensors in files: a safetensors header checked before anything believes it, and their bytes.

Read by ``preadv`` into private memory, never mapped: a file that became shorter is then an error
and no SIGBUS.

Source: https://huggingface.co/docs/safetensors, "Format": eight bytes of length, JSON, the tensors
one after the other without holes; dtypes as in the reference implementation's ``Dtype``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zhcache.errors import IntegrityError

MAX_HEADER = 16 * 2**20
"""Bytes of a header; the largest published ones are a few MiB."""

MAX_TENSORS = 2**16
"""Tensors of one file."""

MAX_RANK = 64
"""Dimensions of one tensor; torch has no more."""

BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "C64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one element of each dtype."""

_LENGTH = 8
_METADATA = "__metadata__"


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


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its tensors in the order of their bytes, and its metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


class WeightsFile:
    """A safetensors file of the store, open for reading. One thread at a time."""

    def __init__(self, folder: Path, path: str, size: int) -> None:
        """Opens it.

        Raises:
            IntegrityError: There is none, or not of this size.
        """
        try:
            fd = os.open(folder / path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise unsound(path, error.strerror or str(error)) from error
        self._take(fd, path, size)

    @classmethod
    def opened(cls, fd: int, path: str, size: int) -> Self:
        """Returns the file behind a descriptor, which it closes in the end; raises as the class."""
        made = cls.__new__(cls)
        made._take(fd, path, size)
        return made

    def _take(self, fd: int, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self._fd = fd
        found = os.fstat(self._fd).st_size
        if found != size:
            self.close()
            raise unsound(path, f"it has {found} bytes, not {size}")
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills ``view`` with what is at ``offset``.

        Raises:
            IntegrityError: The file ends before, or the disk cannot be read.
        """
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise unsound(self.path, error.strerror or str(error)) from error
            if count == 0:
                raise unsound(self.path, f"it ends at byte {offset + done} of {self.size}")
            done += count

    def header(self) -> Header:
        """Returns what it says of itself, believed only where all of it agrees.

        Raises:
            IntegrityError: It does not.
        """
        if self.size < _LENGTH:
            raise unsound(self.path, f"it has {self.size} bytes")
        head = bytearray(_LENGTH)
        self.read_into(memoryview(head), 0)
        length = int.from_bytes(head, "little")
        if length > MAX_HEADER or _LENGTH + length > self.size:
            raise unsound(self.path, f"its header would be {length} bytes long")
        text = bytearray(length)
        self.read_into(memoryview(text), _LENGTH)
        return parsed(bytes(text), self.path, self.size)

    def close(self) -> None:
        """Closes it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parsed(text: bytes, path: str, size: int) -> Header:
    """Returns what a header's JSON says.

    Args:
        text: The JSON.
        path: Of the file, for errors and ``TensorInfo.file``.
        size: Of the whole file.

    Raises:
        IntegrityError: It is none, or does not describe a file of this size byte by byte.
    """
    try:
        table: Any = json.loads(text.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise unsound(path, f"its header is no JSON: {error}"[:200]) from error
    if not isinstance(table, dict):
        raise unsound(path, "its header is no object")
    metadata = _metadata(table.pop(_METADATA, {}), path)
    if len(table) > MAX_TENSORS:
        raise unsound(path, f"it names {len(table)} tensors")
    start = _LENGTH + len(text)
    tensors = [_tensor(name, said, path, start) for name, said in table.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    at = start
    for tensor in tensors:
        if tensor.start != at:
            raise unsound(path, f"the bytes of {_short(tensor.name)} overlap or leave a hole")
        at = tensor.end
    if at != size:
        raise unsound(path, f"its tensors end at byte {at}, the file at {size}")
    return Header({tensor.name: tensor for tensor in tensors}, metadata)


def encoded(tensors: Iterable[tuple[str, str, tuple[int, ...], int]], metadata: Any) -> bytes:
    """Returns a file's head: length and JSON, sorted, so that equal tensors give equal bytes.

    Args:
        tensors: Name, dtype, shape and bytes of each, in the order in which they will lie.
        metadata: Of the file.
    """
    table: dict[str, Any] = {_METADATA: dict(metadata)}
    at = 0
    for name, dtype, shape, size in tensors:
        table[name] = {"data_offsets": [at, at + size], "dtype": dtype, "shape": list(shape)}
        at += size
    text = json.dumps(table, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    # The tensors start at a multiple of eight, so that they can be mapped.
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Returns how many bytes a tensor takes, rounded up."""
    return -(-math.prod(shape) * BITS[dtype] // 8)


def unsound(path: str, reason: str) -> IntegrityError:
    """Returns the error that ``path`` is no sound file of weights."""
    return IntegrityError(
        "{file} is not a sound safetensors file: {reason}",
        hint="`zhcache verify REPO` checks it, `zhcache repair` fetches it again; where they find"
        " nothing it was published so: take another revision",
        file=path,
        reason=reason,
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _metadata(found: Any, path: str) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise unsound(path, "its metadata are not names and words")
    for word in (*found, *found.values()):
        _writable(word, path)
    return found


def _tensor(name: str, said: Any, path: str, start: int) -> TensorInfo:
    _writable(name, path)
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        raise unsound(path, f"{_short(name)} is described by other words than a tensor")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise unsound(path, f"{_short(name)} has the unknown dtype {_short(str(dtype))}")
    if not (_are_counts(shape) and len(shape) <= MAX_RANK):
        raise unsound(path, f"{_short(name)} has no shape")
    if not (_are_counts(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise unsound(path, f"{_short(name)} does not say where it lies")
    bits = math.prod(shape) * BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise unsound(path, f"{_short(name)} does not have the bytes of its shape")
    return TensorInfo(name, dtype, tuple(shape), start + offsets[0], start + offsets[1], path)


def _are_counts(found: Any) -> bool:
    return isinstance(found, list) and all(
        # A bool is an int to Python. What is larger lies in no file.
        type(one) is int and 0 <= one < 2**63
        for one in found
    )


def _writable(word: str, path: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError:
        raise unsound(path, "a name in its header is no text") from None


def _short(name: str) -> str:
    return repr(name[:100])
