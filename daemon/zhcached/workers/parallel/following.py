"""Every rank but the first: makes each call with the others, and tells rank 0 how it ended."""

from __future__ import annotations

import gc
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import Call, Load
from zhcached.workers.calling import parameters, perform
from zhcached.workers.failures import Stopped, described
from zhcached.workers.loading import Held
from zhcached.workers.parallel.sharing import Seat, draw_alike, load_part, part_of
from zhcached.workers.parallel.words import Go, Halt, Over, Together, ToRank
from zhcached.workers.resident import keep_quiet


def run(line: socket.socket, request: Load, fds: Sequence[int], number: int, folder: Path) -> None:
    """Loads this rank's part, then makes calls until ``line`` ends.

    Args:
        line: To rank 0.
        request: What all ranks hold.
        fds: What came beside it; closed here.
        number: Which rank this is.
        folder: Where the ranks meet.
    """
    own, mine = part_of(request, fds, number)
    try:
        seat = Seat(number, len(request.devices), folder)
        held, _ = load_part(own, mine, seat, lambda _: None)
    except Exception as error:  # noqa: BLE001 - whatever diffusers raises is told, not died of
        frames.send(line, Over(id=0, error=to_info(described(error, own.device))))
        # Until rank 0 ends: where all of them failed alike, it is the one to tell of it.
        line.recv(1)
        return
    finally:
        frames.close_all(fds)
    frames.send(line, Over(id=0))
    keep_quiet()
    while True:
        try:
            message, beside = frames.receive(line, ToRank)
        except EOFError:
            return
        try:
            # Else a word on a call that has ended here already.
            if isinstance(message, Together):
                frames.send(line, _made(line, held, message, beside))
        finally:
            frames.close_all(beside)


def _made(line: socket.socket, held: Held, asked: Together, fds: list[int]) -> Over:
    call = asked.call

    def is_cancelled() -> bool:
        word, beside = frames.receive(line, Go | Halt)
        frames.close_all(beside)
        return isinstance(word, Halt)

    draw_alike(asked.random)
    try:
        _, beside = perform(
            held,
            _undecoded(call, held.as_class(call.pipeline)),
            fds,
            is_cancelled=is_cancelled,
            on_step=lambda *_: None,
        )
    except Stopped:
        return Over(id=call.id)
    except Exception as error:  # noqa: BLE001 - a call's error is its caller's
        told = described(error, str(held.device))
        # The frames of the traceback hold the call's tensors.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        del error
        gc.collect()
        return Over(id=call.id, error=to_info(told))
    frames.close_all(beside)
    return Over(id=call.id)


def _undecoded(call: Call, pipeline: Any) -> Call:
    """Returns the call as one that ends with latents: rank 0 decodes them, once."""
    takes_latents = "output_type" in parameters(pipeline)
    # Pasted into the whole image, which only a decoded one can be; diffusers checks for it.
    if not takes_latents or call.arguments.get("padding_mask_crop") is not None:
        return call
    return msgspec.structs.replace(call, arguments={**call.arguments, "output_type": "latent"})
