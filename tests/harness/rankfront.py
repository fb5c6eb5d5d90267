"""The daemon's side of a worker's line, for tests of workers that are several processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcache.resident.decode import Decoder
from zhcached.residency.launch.launch import Worker

WAIT_S = 60.0


class Front:
    """A worker that was told to load; ``loaded`` is what it said then.

    Args:
        worker: Just launched.
        snapshot: What it is to hold.
        devices: Which share an image; none is one device alone.
    """

    def __init__(self, worker: Worker, snapshot: Path, devices: list[str]) -> None:
        self.worker = worker
        worker.line.settimeout(WAIT_S)
        frames.send(worker.line, r.Load(folder=str(snapshot), device="cpu", devices=devices))
        self.loaded: Any = self.until(r.Loaded, r.Failed)

    def until(self, *kinds: type) -> Any:
        """Returns the next frame of one of these kinds; ``pictures`` of a call's answer as well."""
        while True:
            event, fds = frames.receive(self.worker.line, r.FromResidentWorker)
            if isinstance(event, kinds):
                self._pixels(event, fds)
                return event
            frames.close_all(fds)

    def begin(self, number: int = 1, seed: int | None = 7, **arguments: Any) -> None:
        """Sends a call."""
        known = {"prompt": "a red house", "num_inference_steps": 4, "height": 64, "width": 64}
        call = r.Call(id=number, arguments={**known, **arguments}, seed=seed, wants_steps=True)
        frames.send(self.worker.line, call)

    def draw(self, **arguments: Any) -> Any:
        """Makes a call and returns its answer."""
        self.begin(**arguments)
        return self.until(r.Returned, r.Failed)

    def ranks(self) -> list[int]:
        """Returns the pids of the further ranks."""
        pid = self.worker.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def close(self) -> None:
        """Ends the worker."""
        self.worker.kill()
        self.worker.wait(WAIT_S)
        with contextlib.suppress(OSError):
            self.worker.line.close()

    def _pixels(self, event: Any, fds: list[int]) -> None:
        self.pixels = b""
        if isinstance(event, r.Returned):
            images = Decoder(fds).decode(event.fields["images"])
            self.pixels = b"".join(image.tobytes() for image in images)
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
