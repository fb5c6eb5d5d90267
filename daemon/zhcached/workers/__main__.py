"""``python -m zhcached.workers KIND FD``: one worker, whose line to the front is descriptor FD."""

from __future__ import annotations

import socket
import sys

from zhcache.protocol import frames
from zhcache.protocol.residency import Fill, Load


def main(arguments: list[str] | None = None) -> int:
    """Runs the worker that is named; returns the process's exit code."""
    kind, fd = arguments if arguments is not None else sys.argv[1:]
    with socket.socket(fileno=int(fd)) as line:
        run(kind, line)
    return 0


def run(kind: str, line: socket.socket) -> None:
    """Reads the first frame of ``line`` and does what it says.

    Raises:
        EOFError: The front closed the line before it asked for anything.
        FrameError: What came is no request.
        OSError: The connection failed.
        ValueError: There is no such kind of worker.
    """
    if kind == "fill":
        from zhcached.workers import fill

        request, fds = frames.receive(line, Fill)
        frames.close_all(fds)
        fill.run(line, request)
    elif kind == "resident":
        from zhcached.workers import resident

        request, fds = frames.receive(line, Load)
        resident.run(line, request, fds)
    else:
        raise ValueError(f"no such worker: {kind}")


if __name__ == "__main__":
    sys.exit(main())
