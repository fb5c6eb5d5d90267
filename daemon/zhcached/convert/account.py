"""What a worker may say while it converts, and what it has said so far. Pure.

It reads files from the network, so that it may be in anybody's hands: every path must be one that
was planned, files come one after the other and to the byte, all of it is bounded by the inputs.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from zhcache.protocol.conversion import (
    CHUNK,
    MAX_SMALL,
    Begin,
    Chunk,
    Convert,
    Discard,
    End,
    Extract,
    Finished,
    FromConvertWorker,
    Same,
    Small,
    TensorError,
    Unpickle,
    Worked,
)
from zhcache.protocol.frames import FrameError
from zhcache.protocol.residency import Failed
from zhcached.convert.recipe import is_quantized

CONFIG = "config.json"
GROWTH = 4
"""The widest cast: one byte a value becomes four."""

SLACK = 64 * 2**20
"""Bytes that headers and scales of a small component may take above that."""

MAX_TENSORS = 200_000
MAX_NAME = 1000
MAX_DISCARDS = 1000
MAX_CHUNKS = 100_000
"""Of a small component; larger ones may have more."""

MAX_WORDS = 32 * 2**20
"""Characters of all that is told of a component's tensors and modules, which the report holds."""

MAX_TOOLS = 64
MAX_COUNT = 2**63
MAX_IDLE = 10_000
"""Frames between two chunks: how far it is, for half an hour."""

_BYTES_FOR_A_CHUNK = 64 * 2**10


T = TypeVar("T")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class Account:
    """The state of one conversation.

    Args:
        request: What the worker was asked.

    Attributes:
        total: Bytes of the inputs.
        same: Sources that are taken as they are, by name below the component.
        tensors: Of each file that ended, what became of its tensors.
        small: Whole files of text, by name.
        finished: The worker's last word.
        bytes_done: Of the inputs.
    """

    def __init__(self, request: Convert | Unpickle | Extract) -> None:
        # What may be taken as it is, by the name it then has, and what may be sent as text.
        self._sources: dict[str, str] = {}
        self._small: set[str] = set()
        if isinstance(request, Unpickle):
            self._outputs = {request.output}
            self.total = request.size
        elif isinstance(request, Extract):
            self._outputs = {request.output}
            self.total = request.bytes
        else:
            rename = request.rename
            self._sources = {w.path: rename.get(w.path, w.path) for w in request.weights}
            self._outputs = set(self._sources.values())
            # A cast leaves the configuration as it is, a quantizer has to say how to read it.
            self._small = {CONFIG} if is_quantized([request.part]) else set()
            if request.index is not None:
                self._small.add(rename.get(request.index, request.index))
            self.total = sum(w.size for w in request.weights)
        self._left = GROWTH * self.total + SLACK
        # What ended is on the disk, and stays there until the job is over.
        self._again = self._left
        self._chunks = MAX_CHUNKS + self._left // _BYTES_FOR_A_CHUNK
        self._idle = 0
        self._discards = 0
        self._open: str | None = None
        self._missing = 0
        self._sizes: dict[str, int] = {}
        self._words: dict[str, int] = {}
        self.same: set[str] = set()
        self.tensors: dict[str, list[TensorError]] = {}
        self.small: dict[str, str] = {}
        self.finished: Finished | None = None
        self.bytes_done = 0

    @property
    def is_open(self) -> bool:
        """Whether a file was begun and has not ended."""
        return self._open is not None

    def take(self, event: FromConvertWorker) -> None:
        """Takes what the worker said.

        Raises:
            FrameError: It may not say that, now or ever.
        """
        self._idle = 0 if isinstance(event, Chunk) else self._idle + 1
        self._chunks -= isinstance(event, Chunk)
        if self._chunks < 0 or self._idle > MAX_IDLE:
            raise FrameError("it does not come to an end")
        match event:
            case Begin(path=path, size=size):
                self._begin(path, size)
            case Chunk(size=size):
                self._chunk(size)
            case End(path=path, tensors=tensors):
                self._end(path, tensors)
            case Discard(path=path):
                self._discard(path)
            case Same(path=path):
                self._take_same(path)
            case Small(path=path, content=content):
                self._take_small(path, content)
            case Worked(bytes_done=done):
                # It may go back: what is discarded is read again.
                self.bytes_done = min(max(done, 0), self.total)
            case Finished():
                self._finish(event)
            case Failed():
                pass

    def _begin(self, path: str, size: int) -> None:
        self._demand_no_file()
        if path not in self._outputs or self._is_there(path):
            raise FrameError(f"it begins {path[:80]!r}, which is not asked for")
        if not 0 < size <= self._left:
            raise FrameError(f"{path} is to have {size} bytes, of {self.total} that are read")
        self._open, self._missing = path, size
        self._left -= size
        self._sizes[path] = size

    def _chunk(self, size: int) -> None:
        if self._open is None or not 0 < size <= min(CHUNK, self._missing):
            raise FrameError(f"it sends {size} bytes where {self._missing} are missing")
        self._missing -= size

    def _end(self, path: str, tensors: list[TensorError]) -> None:
        if path != self._open or self._missing:
            raise FrameError(f"it ends {path[:80]!r}, of which {self._missing} bytes are missing")
        self._open = None
        if len(tensors) + sum(map(len, self.tensors.values())) > MAX_TENSORS:
            raise FrameError(f"it tells of more than {MAX_TENSORS} tensors")
        if not all(_is_sound(tensor) for tensor in tensors):
            raise FrameError("it tells of a tensor what cannot be")
        self._hear(path, sum(len(t.name) + len(t.dtype_in) + len(t.dtype_out) for t in tensors))
        self.tensors[path] = tensors

    def _discard(self, path: str) -> None:
        self._discards += 1
        if self._discards > MAX_DISCARDS:
            raise FrameError(f"it discards more than {MAX_DISCARDS} times")
        if path == self._open:
            self._open, self._missing = None, 0
        elif self._open is None and path in self.tensors:
            del self.tensors[path]
            del self._words[path]
            self._again -= self._sizes[path]
            if self._again < 0:
                raise FrameError("it makes the same files again and again")
        else:
            raise FrameError(f"it discards {path[:80]!r}, which it did not send")
        self._left += self._sizes.pop(path)

    def _take_same(self, path: str) -> None:
        self._demand_no_file()
        if path not in self._sources or self._is_there(self._sources[path]):
            raise FrameError(f"it takes {path[:80]!r} as it is, which is not asked for")
        self.same.add(path)

    def _take_small(self, path: str, content: str) -> None:
        self._demand_no_file()
        if path not in self._small or path in self.small or len(content) > MAX_SMALL:
            raise FrameError(f"it sends {path[:80]!r} as text of {len(content)} characters")
        if path == CONFIG:
            _decoded(path, content, dict[str, Any])
        elif set(_decoded(path, content, _Index).weight_map.values()) != self._outputs:
            raise FrameError(f"{path} names other files than are made")
        self.small[path] = content

    def _finish(self, event: Finished) -> None:
        self._demand_no_file()
        lacking = self._small.difference(self.small)
        lacking.update(path for path in self._outputs if not self._is_there(path))
        if lacking:
            raise FrameError(f"it has finished and {min(lacking)} is missing")
        if len(event.tools) > MAX_TOOLS or len(event.kept) > MAX_TENSORS:
            raise FrameError(f"it tells of {len(event.tools)} tools, {len(event.kept)} modules")
        words = [
            word for told in (event.tools, event.kept) for pair in told.items() for word in pair
        ]
        if max(map(len, words), default=0) > MAX_NAME:
            raise FrameError("it tells of a module or a tool more than there is to say")
        self._hear("", sum(map(len, words)))
        self.finished = event

    def _hear(self, path: str, words: int) -> None:
        self._words[path] = words
        if sum(self._words.values()) > MAX_WORDS:
            raise FrameError("it tells more than there is to say")

    def _is_there(self, output: str) -> bool:
        return output in self.tensors or any(self._sources[path] == output for path in self.same)

    def _demand_no_file(self) -> None:
        if self._open is not None:
            raise FrameError(f"{self._open} has not ended")


def _is_sound(told: TensorError) -> bool:
    counts = (told.nonfinite_in, told.overflow, told.bytes)
    return (
        max(len(told.name), len(told.dtype_in), len(told.dtype_out)) <= MAX_NAME
        and all(0 <= count < MAX_COUNT for count in counts)
        and told.max_abs >= 0
        and told.relative >= 0
    )


def _decoded(path: str, content: str, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=shape)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"{path} is not what it should be: {error}") from error
