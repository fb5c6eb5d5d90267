"""The head of a checkpoint's file: which tensors it says that it holds, read before anything else.

It decides what is asked of whom, nothing more: the worker that reads the tensors checks the whole
head again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from zhcache.errors import IntegrityError, UnsafeWeights, ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol.names import printable

MAX_HEADER = 16 * 2**20
"""Bytes; a checkpoint of SDXL with its averaged weights has 700 KiB."""

_LENGTH = 8
_METADATA = "__metadata__"
_PICKLES = (b"PK\x03\x04", b"\x80")
"""What ``torch.save`` begins with, before torch 1.6 and since."""


class Tensor(msgspec.Struct, frozen=True):
    """One tensor as the head tells of it; ``bytes`` is what it takes in the file."""

    shape: tuple[int, ...]
    data_offsets: tuple[int, int]
    dtype: str = ""

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.data_offsets[1] - self.data_offsets[0]


Tensors = Mapping[str, Tensor]


def read(fd: int, name: str) -> Tensors:
    """Returns the tensors of an open file, by name.

    Raises:
        UnsafeWeights: It is a pickle.
        IntegrityError: It is no safetensors file, or only a part of one.
        ZhcacheError: It cannot be read.
    """
    try:
        size = os.fstat(fd).st_size
        head = os.pread(fd, _LENGTH + 1, 0)
        length = int.from_bytes(head[:_LENGTH], "little")
        if length > MAX_HEADER or head[_LENGTH:] != b"{":
            # A sound length may have a pickle's first byte.
            if head.startswith(_PICKLES):
                raise pickled(name)
            raise _unsound(
                mark("{file} is not a sound safetensors file: it does not begin as one"), name
            )
        if _LENGTH + length > size:
            raise _unsound(
                mark(
                    "{file} is not a sound safetensors file: its head has {head} bytes, the whole"
                    " file {size}: it was cut"
                ),
                name,
                head=length,
                size=size,
            )
        text = os.pread(fd, length, _LENGTH)
    except OSError as error:
        raise ZhcacheError(
            "{file} cannot be read: {reason}", file=printable(name), reason=error.strerror or error
        ) from error
    return parsed(text, name, size)


def parsed(text: bytes, name: str, size: int) -> Tensors:
    """Returns what a head's JSON says. Pure.

    Args:
        text: The JSON.
        name: What the file is called, for errors.
        size: Of the whole file.

    Raises:
        IntegrityError: It is none, or tells of another number of bytes than the file has.
    """
    try:
        table = msgspec.json.decode(text, type=dict[str, Any])
        table.pop(_METADATA, None)
        tensors = msgspec.convert(table, dict[str, Tensor])
    except (ValueError, RecursionError) as error:
        raise _unsound(
            mark("{file} is not a sound safetensors file: its head cannot be read: {reason}"),
            name,
            reason=str(error)[:200],
        ) from error
    if any(not 0 <= start <= end for start, end in (t.data_offsets for t in tensors.values())):
        raise _unsound(
            mark("{file} is not a sound safetensors file: a tensor of it ends before it begins"),
            name,
        )
    told = _LENGTH + len(text) + max((t.data_offsets[1] for t in tensors.values()), default=0)
    if told > size:
        raise _unsound(
            mark(
                "{file} is not a sound safetensors file: it has {size} of {told} bytes: it was cut"
            ),
            name,
            size=size,
            told=told,
        )
    if told < size:
        raise _unsound(
            mark(
                "{file} is not a sound safetensors file: it has {more} bytes more than its head"
                " tells of"
            ),
            name,
            more=size - told,
        )
    return tensors


def pickled(name: str) -> UnsafeWeights:
    """Returns what to say of a whole model in a file that is a pickle."""
    return UnsafeWeights(
        "{file} is a pickle, which may run code when it is read",
        hint="on a machine that you can lose: safetensors.torch.save_file(torch.load(FILE,"
        " weights_only=True)['state_dict'], 'FILE.safetensors'); then import that",
        file=printable(name),
    )


def _unsound(template: str, name: str, **values: object) -> IntegrityError:
    return IntegrityError(
        template,
        hint="download it again; nothing of it was taken in",
        file=printable(name),
        **values,
    )
