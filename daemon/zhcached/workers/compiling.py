"""Attention backends that a worker may use, and what it compiled, for the next one of its kind.

Artifacts are code to whoever loads them. They come from a worker, are kept by the front and go to
a worker; no client ever gives or gets them.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

import diffusers
import torch

from zhcache.errors import UsageError
from zhcache.pipeline import tuning

_LENGTH = struct.Struct(">Q")


def attend(pipeline: Any, backend: str) -> None:
    """Has a pipeline's models compute attention by ``backend``.

    Raises:
        UsageError: There is none of that name, the pipeline's models do not let one choose, or it
            would be downloaded.
    """
    if backend.lower().endswith("_hub"):
        raise UsageError(
            "the attention backend {name} downloads code, which a worker cannot",
            hint="take one that is installed with diffusers, such as native",
            name=backend,
        )
    tuning.attend(pipeline, backend)


class Compiled:
    """What has been compiled in this process, of which the front keeps a copy.

    torch writes what is new at each save as a further section of one stream, and reads only the
    last section of a kind back (``CacheArtifactManager.deserialize`` makes a dict of them, seen in
    2.13). So each save is a part of its own here, with torch's record cleared before the next.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: set[tuple[str, str]] = set()

    def take_up(self, fd: int) -> None:
        """Loads what an earlier worker compiled; the descriptor stays the caller's."""
        for part in _split(_read(fd)):
            loaded = torch.compiler.load_cache_artifacts(part)
            if loaded is None:
                # It costs time and nothing else: torch says why in the log, and compiles anew.
                sys.stderr.write("compiled artifacts of an earlier worker do not fit\n")
                continue
            self._known |= _names(loaded)
            self._parts.append(part)

    def news(self) -> bytes | None:
        """Returns all artifacts if some are new since the last time, else None."""
        from torch.compiler._cache import CacheArtifactManager

        saved = torch.compiler.save_cache_artifacts()
        if saved is None:
            return None
        part, info = saved
        CacheArtifactManager.clear()
        if _names(info) <= self._known:
            return None
        self._known |= _names(info)
        self._parts.append(part)
        return b"".join(_LENGTH.pack(len(one)) + one for one in self._parts)


def key(device: torch.device) -> str:
    """Returns a name for what artifacts depend on: libraries, and the processor or GPU."""
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    said = "\n".join([torch.__version__, diffusers.__version__, sys.version, where])
    return hashlib.sha256(said.encode()).hexdigest()


def _names(info: Any) -> set[tuple[str, str]]:
    return {(kind, name) for kind, names in info.artifacts.items() for name in names}


def _read(fd: int) -> bytes:
    parts: list[bytes] = []
    offset = 0
    while part := os.pread(fd, 1 << 24, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _split(joined: bytes) -> Iterator[bytes]:
    start = 0
    while start + _LENGTH.size <= len(joined):
        (length,) = _LENGTH.unpack_from(joined, start)
        start += _LENGTH.size
        yield joined[start : start + length]
        start += length
