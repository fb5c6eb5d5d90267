"""A resident pipeline of the daemon simulator: images of one colour, the seed's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import Image

from zhcache.errors import Cancelled, NotFound, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcache.protocol.failure import to_info
from zhcache.resident.encode import Encoder

PARAMETERS = [
    "prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "width", "height",
    "callback_on_step_end",
]  # fmt: skip


@dataclass
class Worker:
    """What it is asked and how it behaves.

    Attributes:
        requests: Each time it was opened.
        calls: Each call.
        cancelled: Ids of calls that were cancelled; ``was_cancelled`` is set with the first, and
            when a client leaves in the middle of a call.
        errors: Raised by the next calls instead of an answer, one each; None answers.
        nsfw: What the safety checker says of each image.
        go_on: A call ends only once this is set; it is set unless a test clears it.
    """

    requests: list[r.ResidentRequest] = field(default_factory=list)
    calls: list[r.Call] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    was_cancelled: threading.Event = field(default_factory=threading.Event)
    called: threading.Event = field(default_factory=threading.Event)
    errors: list[ZhcacheError | None] = field(default_factory=list)
    field_name: str = "images"
    nsfw: bool | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.go_on.set()

    def serve(self, line: socket.socket, request: r.ResidentRequest, commit: str | None) -> None:
        """Serves one client; ``commit`` is that of the snapshot, None where none is held."""
        self.requests.append(request)
        if commit is None:
            missing = NotFound("{repo} is not held", repo=request.repo)
            frames.send(line, r.Failed(error=to_info(missing)))
            return
        frames.send(line, r.Progress(note="loads"))
        frames.send(
            line,
            r.Opened(
                lease="l1", repo=request.repo, commit=commit, device="cpu",
                class_name="TinyPipeline", parameters=PARAMETERS, devices=request.devices,
            ),
        )  # fmt: skip
        while True:
            try:
                message, fds = frames.receive(line, r.FromClient)
            except (EOFError, OSError):
                # Who leaves ends his calls, as in the daemon.
                if self.calls and not self.go_on.is_set():
                    self.was_cancelled.set()
                return
            frames.close_all(fds)
            if isinstance(message, r.Cancel):
                self._cancel(line, message)
            else:
                self.calls.append(message)
                threading.Thread(target=self._answer, args=(line, message), daemon=True).start()

    def _cancel(self, line: socket.socket, message: r.Cancel) -> None:
        self.cancelled.append(message.id)
        failed = r.Failed(error=to_info(Cancelled("the call was cancelled")), id=message.id)
        with suppress(OSError):
            self._send(line, failed)
        self.was_cancelled.set()

    def _answer(self, line: socket.socket, call: r.Call) -> None:
        error = self.errors.pop(0) if self.errors else None
        for step in range(2 if call.wants_steps else 0):
            self._send(line, r.Step(id=call.id, step=step, total=2, timestep=1.0))
        self.called.set()
        self.go_on.wait(20)
        if self.cancelled:
            return
        if error is not None:
            self._send(line, r.Failed(error=to_info(error), id=call.id))
            return
        encoder = Encoder()
        size = call.arguments.get("width", 8), call.arguments.get("height", 8)
        image = Image.new("RGB", size, (call.seed % 256, 0, 0))
        verdict = None if self.nsfw is None else [self.nsfw]
        named = {self.field_name: [image], "nsfw_content_detected": verdict}
        fields = {name: encoder.encode(value, name) for name, value in named.items()}
        fds = encoder.finish()
        self._send(line, r.Returned(id=call.id, class_name="Out", fields=fields, seconds=0.1), fds)
        frames.close_all(fds)

    def _send(self, line: socket.socket, event: r.Event, fds: Sequence[int] = ()) -> None:
        # Calls are answered by threads of their own, several at once.
        with self._sending:
            frames.send(line, event, fds)
