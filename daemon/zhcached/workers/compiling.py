"""Attention backends that a worker may use, and what it compiled, for the next one of its kind.

Artifacts are code to whoever loads them. They come from a worker, are kept by the front and go to
a worker; no client ever gives or gets them.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch

from zhcache.errors import UsageError
from zhcache.pipeline import tuning

_LENGTH = struct.Struct(">Q")
_LIBRARIES = b"zhcache libraries\n"
"""What a part begins with that torch did not write."""

_LIBRARY = re.compile(r"[0-9a-z]{2}/[0-9A-Za-z_.]{1,120}\.so")
"""Where Inductor puts one, below its folder."""


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

    Torch's artifacts hold the sources of a CPU's kernels, which the next worker would hand to the
    compiler again, after ten trials of what the processor can do: 27 of 29 seconds of CPU. So the
    libraries that the compiler made are a part beside them.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: set[tuple[str, str]] = set()
        self._libraries: set[str] = set()

    def take_up(self, fd: int) -> None:
        """Loads what an earlier worker compiled; the descriptor stays the caller's."""
        for part in _split(_read(fd)):
            if part.startswith(_LIBRARIES):
                self._libraries |= _put(part)
                self._parts.append(part)
                continue
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

        if (saved := torch.compiler.save_cache_artifacts()) is None:
            return None
        part, info = saved
        CacheArtifactManager.clear()
        if _names(info) <= self._known:
            return None
        self._known |= _names(info)
        self._parts.append(part)
        if new := {name: found for name, found in _made() if name not in self._libraries}:
            self._libraries |= new.keys()
            self._parts.append(_LIBRARIES + msgspec.msgpack.encode(new))
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


def _folder() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())


def _made() -> Iterator[tuple[str, bytes]]:
    """Yields the libraries that the compiler made, by their place in Inductor's folder."""
    folder = _folder()
    for path in sorted(folder.glob("*/*.so")):
        name = str(path.relative_to(folder))
        if _LIBRARY.fullmatch(name):
            yield name, path.read_bytes()


def _put(part: bytes) -> set[str]:
    """Puts libraries where Inductor looks for them, and returns their places."""
    folder = _folder()
    found = msgspec.msgpack.decode(part[len(_LIBRARIES) :], type=dict[str, bytes])
    for name, library in found.items():
        if _LIBRARY.fullmatch(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(library)
    return set(filter(_LIBRARY.fullmatch, found))


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
