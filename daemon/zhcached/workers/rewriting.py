"""Sends one file of weights as its plan wants it, and says what must not be done to it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from math import prod

from zhcache.protocol.conversion import TensorError
from zhcached.workers.differences import Differences
from zhcached.workers.order import Piece, ordered
from zhcached.workers.outgoing import Outgoing, Told
from zhcached.workers.schemes import Group, Quantizing, Scheme, module_of
from zhcached.workers.streaming import Streams, whole
from zhcached.workers.tensors import Header, TensorInfo, WeightsFile, encoded, size_of

NAN = "NaN"
OVERFLOW = "overflow in {dtype}"
_NAMES = {
    "F16": "fp16",
    "BF16": "bf16",
    "F32": "fp32",
    "F8_E4M3": "fp8",
    "I8": "int8",
    "U8": "int4",
}


class Rewriting:
    """Sends the files of one component.

    Args:
        line: To the front.
        scheme: Makes what is planned as ``quantize``.
        told: Told how far the reading is.
    """

    def __init__(self, line: socket.socket, scheme: Scheme, told: Told) -> None:
        self._scheme = scheme
        self._told = told
        self._out = Outgoing(line)
        self._before = 0
        self._streams = Streams(self._out, self._reached)
        # What was counted in tensors before they were planned anew, as copies.
        self._counted: dict[str, Differences] = {}

    def send(
        self, file: WeightsFile, header: Header, groups: list[Group], path: str, before: int
    ) -> dict[str, str]:
        """Sends a file; returns the modules that must stay as they are, and why.

        Where there are any the file has been discarded, and read to its end for more of them.

        Args:
            file: The source's.
            header: Its.
            groups: What becomes of its tensors.
            path: What the output is called.
            before: Bytes of the component's files that were dealt with before this one.

        Raises:
            IntegrityError: The source cannot be read.
            OSError: The front is gone.
        """
        self._before = before
        pieces = ordered(groups)
        described = _described(pieces)
        head = encoded(described, self._metadata(header, groups))
        self._out.begin(path, len(head) + sum(size for *_, size in described))
        self._out.put(head)
        errors: list[TensorError] = []
        wide: dict[str, str] = {}
        for piece in pieces:
            tensor = header.tensors[piece.group.source]
            differences = self._piece(file, tensor, piece)
            if differences is None:
                continue
            why = _why_wide(piece.group, differences)
            if why:
                wide[module_of(tensor.name)] = why
                self._counted[tensor.name] = differences
                self._out.discard(f"{tensor.name}: {why}")
            errors.append(_error(piece.group, tensor, differences))
        self._out.end(errors)
        return wide

    def discard(self, path: str, reason: str) -> None:
        """Takes back a file that has ended."""
        self._out.discard(reason, path)

    def _piece(self, file: WeightsFile, tensor: TensorInfo, piece: Piece) -> Differences | None:
        """Writes one piece; returns how far its tensor is from the source, once for each tensor."""
        group = piece.group
        if group.kind == "copy":
            seen = self._streams.copy(file, tensor)
            return self._counted.get(tensor.name, seen)
        if group.kind == "cast":
            return self._streams.cast(file, tensor, piece.entries[0])
        scheme = self._scheme
        assert isinstance(scheme, Quantizing)
        source = whole(file, tensor)
        made = scheme.convert(group, lambda: source)
        for entry in piece.entries:
            self._streams.write(made[group.entries.index(entry)])
        self._reached(tensor.end)
        if group.entries[0] not in piece.entries:
            return None
        return self._streams.compare(source, scheme.restored(group, made))

    def _metadata(self, header: Header, groups: list[Group]) -> dict[str, str]:
        return {"format": "pt", **header.metadata, **self._scheme.metadata(groups)}

    def _reached(self, at: int) -> None:
        self._told.reached(self._before + at)


def _described(pieces: Iterable[Piece]) -> list[tuple[str, str, tuple[int, ...], int]]:
    return [
        (entry.name, entry.dtype, entry.shape, size_of(entry.dtype, entry.shape))
        for piece in pieces
        for entry in piece.entries
    ]


def _why_wide(group: Group, differences: Differences) -> str:
    """Returns why this tensor's module must not be changed, or nothing."""
    if group.kind == "copy":
        return ""
    if differences.nan:
        return NAN
    if differences.overflow:
        dtype = _dtype(group)
        return OVERFLOW.format(dtype=_NAMES.get(dtype, dtype))
    return ""


def _error(group: Group, tensor: TensorInfo, differences: Differences) -> TensorError:
    size = sum(size_of(entry.dtype, entry.shape) for entry in group.entries)
    return differences.told(tensor.name, tensor.dtype, _dtype(group), size)


def _dtype(group: Group) -> str:
    """Returns what the numbers themselves are in, not their scales or zero points."""
    return max(group.entries, key=lambda entry: prod(entry.shape)).dtype
