"""One tensor after the other from a file of the store to the line, in steps that stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from zhcached.workers.differences import STEP, Differences, Work
from zhcached.workers.outgoing import Outgoing
from zhcached.workers.schemes import Entry
from zhcached.workers.tensors import TensorInfo, WeightsFile

FLOATS: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""What is cast, and what can be looked into; other dtypes are copied."""

WHOLE: Mapping[str, torch.dtype] = {
    **FLOATS,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What a scheme may ask for whole, or make."""

# Of the widest dtype.
_STEP_BYTES = 8 * STEP

Done = Callable[[int], None]


class Streams:
    """Copies, casts and writes tensors into one output.

    Args:
        out: Where they go, in the order of the calls.
        done: Told, after each step, where in its file the reading is.
    """

    def __init__(self, out: Outgoing, done: Done) -> None:
        self._out = out
        self._done = done
        self._work = Work()
        self._memory = bytearray(_STEP_BYTES)
        self._view = memoryview(self._memory)
        self._flat = torch.frombuffer(self._memory, dtype=torch.uint8)

    def copy(self, file: WeightsFile, tensor: TensorInfo) -> Differences:
        """Writes the tensor's own bytes.

        Raises:
            IntegrityError: They cannot be read.
            OSError: The front is gone.
        """
        differences = Differences(self._work)
        dtype = FLOATS.get(tensor.dtype)
        at = tensor.start
        while at < tensor.end:
            room = self._out.room()
            # A step of one-byte elements is as many elements as the counting takes at once.
            count = min(tensor.end - at, room.numel(), STEP * (dtype.itemsize if dtype else 1))
            file.read_into(self._out.view()[:count], at)
            if dtype is not None:
                differences.look(room[:count].view(dtype))
            at += count
            self._wrote(count, at)
        return differences

    def cast(self, file: WeightsFile, tensor: TensorInfo, entry: Entry) -> Differences:
        """Writes the tensor in the entry's dtype, as ``Tensor.to`` rounds.

        Raises:
            IntegrityError: It cannot be read.
            OSError: The front is gone.
        """
        differences = Differences(self._work)
        wide, narrow = FLOATS[tensor.dtype], FLOATS[entry.dtype]
        at = tensor.start
        while at < tensor.end:
            room = self._out.room()
            count = min((tensor.end - at) // wide.itemsize, STEP, room.numel() // narrow.itemsize)
            size = count * wide.itemsize
            file.read_into(self._view[:size], at)
            source = self._flat[:size].view(wide)
            made = room[: count * narrow.itemsize].view(narrow)
            made.copy_(source)
            differences.add(source, made)
            at += size
            self._wrote(made.nbytes, at)
        return differences

    def write(self, tensor: torch.Tensor) -> None:
        """Writes what a scheme made; contiguous, on the CPU.

        Raises:
            OSError: The front is gone.
        """
        flat = tensor.reshape(-1).view(torch.uint8)
        at = 0
        while at < flat.numel():
            room = self._out.room()
            count = min(room.numel(), flat.numel() - at)
            room[:count].copy_(flat[at : at + count])
            self._out.wrote(count)
            at += count

    def compare(self, source: torch.Tensor, made: torch.Tensor) -> Differences:
        """Returns how far ``made`` is from ``source``; float dtypes, equal shapes."""
        differences = Differences(self._work)
        was, now = source.reshape(-1), made.reshape(-1)
        for at in range(0, was.numel(), STEP):
            differences.add(was[at : at + STEP], now[at : at + STEP])
        return differences

    def _wrote(self, count: int, at: int) -> None:
        self._out.wrote(count)
        self._done(at)


def whole(file: WeightsFile, tensor: TensorInfo) -> torch.Tensor:
    """Returns a tensor in memory of its own.

    Raises:
        IntegrityError: It cannot be read.
        KeyError: Torch has no such dtype.
    """
    dtype = WHOLE[tensor.dtype]
    if not tensor.bytes:
        return torch.empty(tensor.shape, dtype=dtype)
    memory = bytearray(tensor.bytes)
    file.read_into(memoryview(memory), tensor.start)
    return torch.frombuffer(memory, dtype=dtype).reshape(tensor.shape)
