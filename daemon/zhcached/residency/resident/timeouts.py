"""How long resident pipelines wait for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long is waited for what, in seconds, and how often tried.

    Attributes:
        keep_alive: Until a worker that nobody uses is ended.
        call: A call may run; 0 is without limit.
        cancel: Until a worker that does not stop a call is ended.
        silence: A loading worker may say nothing.
        frame: A worker may take for one frame once it has begun, or to read one.
        crashes: Deaths in a row until a worker is no more started.
        rest: Until it is tried again then.
    """

    keep_alive: float = 600.0
    call: float = 3600.0
    cancel: float = 60.0
    silence: float = 900.0
    frame: float = 60.0
    crashes: int = 3
    rest: float = 30.0
