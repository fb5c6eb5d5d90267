"""One component converted by the real worker in this process, its files written as it says."""

from __future__ import annotations

import shutil
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from zhcache.protocol import frames
from zhcache.protocol.conversion import (
    Begin,
    Chunk,
    Convert,
    Discard,
    End,
    Finished,
    FromConvertWorker,
    Part,
    Same,
    Small,
    Source,
    TensorError,
)
from zhcache.protocol.failure import to_error
from zhcache.protocol.residency import Failed


@dataclass
class Converted:
    """What came of it: the folder, the errors of its tensors and the last word."""

    folder: Path
    finished: Finished
    errors: dict[str, TensorError] = field(default_factory=dict)
    discarded: list[Discard] = field(default_factory=list)


def convert(source: Path, target: Path, library: str, class_name: str, part: Part) -> Converted:
    """Returns the component in the folder ``source`` as ``part`` wants it, in another folder.

    Files that the worker does not mention are taken over, as the front does it.

    Raises:
        ZhcacheError: What the worker failed with.
    """
    return answer(asked(source, library, class_name, part), source, target)


def answer(request: Convert, source: Path, target: Path) -> Converted:
    """Returns what the worker makes of ``request``, as ``convert``."""
    from zhcached.workers import convert as worker

    ours, theirs = socket.socketpair()

    def work() -> None:
        with theirs:
            worker.run(theirs, request)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with ours:
            return take(ours, source, target)
    finally:
        thread.join()


def asked(source: Path, library: str, class_name: str, part: Part) -> Convert:
    """Returns the request to convert the component in the folder ``source``."""
    weights = sorted(source.glob("*.safetensors"))
    return Convert(
        folder=str(source.parent),
        component=source.name,
        library=library,
        class_name=class_name,
        part=part,
        weights=[Source(path.name, path.stat().st_size) for path in weights],
        index=next((path.name for path in source.glob("*.index.json")), None),
    )


def take(line: socket.socket, source: Path, target: Path) -> Converted:
    """Writes what comes on ``line`` to the folder ``target``; raises as ``convert``."""
    target.mkdir(parents=True)
    made = _take(line, source, target)
    for path in source.iterdir():
        if path.suffix != ".safetensors" and not (target / path.name).exists():
            shutil.copy(path, target)
    return made


def _take(line: socket.socket, source: Path, target: Path) -> Converted:
    made = Converted(target, Finished())
    out = None
    left = 0
    while True:
        event, _ = frames.receive(line, FromConvertWorker)
        if isinstance(event, Failed):
            raise to_error(event.error)
        if isinstance(event, Finished):
            made.finished = event
            return made
        if isinstance(event, Begin):
            out, left = (target / event.path).open("wb"), event.size
        elif isinstance(event, Chunk):
            assert out is not None
            left -= event.size
            assert left >= 0
            out.write(_exactly(line, event.size))
        elif isinstance(event, Discard):
            assert out is not None
            out.close()
            (target / event.path).unlink()
            made.discarded.append(event)
        elif isinstance(event, End):
            assert out is not None
            assert left == 0
            out.close()
            made.errors |= {error.name: error for error in event.tensors}
        elif isinstance(event, Same):
            shutil.copy(source / event.path, target)
        elif isinstance(event, Small):
            (target / event.path).write_text(event.content, "utf-8")


def _exactly(line: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = line.recv(size - len(content))
        assert part
        content += part
    return bytes(content)
