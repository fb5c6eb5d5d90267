"""``python -m harness.crewed SCRATCH SCENARIO...``: ranks whose pipeline does as a test says.

Real ranks, real lines, the worker's own code round a pipeline that is no pipeline: a call's
arguments say what each rank does. Prints for each scenario one JSON object: the frames that the
front got, and how the worker ended.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcached.workers import template

LINE_FD = 3
GRACE_S = 5.0
HANGS = {"does": "hang"}
DIES = {"does": "die"}
RAISES = {"does": "raise"}
REFUSES = {"does": "refuse"}
PROMPT = "nobody else's business"

# What rank 0 and rank 1 do in each call.
SCENARIOS: dict[str, Sequence[tuple[dict[str, Any], dict[str, Any]]]] = {
    "both draw": [({"does": "draw"}, {"does": "draw"})] * 2,
    "both raise": [(RAISES, RAISES), ({}, {})],
    "rank 1 raises alone": [(HANGS, RAISES), ({}, {})],
    "rank 0 raises alone": [(RAISES, HANGS), ({}, {})],
    "rank 1 refuses alone": [(HANGS, REFUSES), ({}, {})],
    "rank 1 refuses once all is done": [({}, REFUSES), ({}, {})],
    "rank 1 dies": [(HANGS, DIES), ({}, {})],
    "rank 1 does not end": [({}, HANGS), ({}, {})],
    "rank 1 raises once all is done": [({}, RAISES), ({}, {})],
    "rank 1 cannot load": [],
    "rank 1 dies between calls": [({}, {})],
}


class Own:
    """What stands for a pipeline."""

    def __call__(self, prompt: str = "") -> None: ...


_OWN = Own()


def main() -> None:
    scratch = Path(sys.argv[1])
    template.prepare(scratch)
    template.fill_up()
    # As the spawner does: a collection in a fork would copy all that was imported.
    gc.freeze()
    for name in sys.argv[2:]:
        print(json.dumps({"scenario": name, **played(name, scratch)}), flush=True)


def played(name: str, scratch: Path) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        ours.close()
        _work(name, theirs, folder)
    theirs.close()
    told: list[str] = []
    try:
        told.append(_heard(ours, r.Loaded, r.Failed))
        for number, does in enumerate(SCENARIOS[name], start=1):
            frames.send(ours, r.Call(id=number, arguments={"ranks": list(does)}))
            told.append(_heard(ours, r.Returned, r.Failed))
        if name == "rank 1 dies between calls":
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            os.kill(int(children), signal.SIGKILL)
            told.append(_heard(ours, r.Returned, r.Failed))
    except (EOFError, OSError):
        told.append("end")
    ours.close()
    _, status = os.waitpid(pid, 0)
    return {
        "told": told,
        "ended": os.waitstatus_to_exitcode(status),
        "drawn": [json.loads(one.read_text()) for one in sorted(folder.glob("drawn-*"))],
    }


def _heard(line: socket.socket, *kinds: type) -> str:
    while True:
        event, fds = frames.receive(line, r.FromResidentWorker)
        frames.close_all(fds)
        if isinstance(event, r.Failed):
            return f"{event.error.code}: {event.error.message}"
        if isinstance(event, kinds):
            return type(event).__name__


def _work(name: str, line: socket.socket, folder: Path) -> None:
    from zhcached.workers import resident
    from zhcached.workers.parallel import crew, following, rank

    seats: list[int] = []

    def load_part(request: Any, fds: Any, seat: Any, note: Any) -> Any:
        seats.append(seat.rank)
        if name == "rank 1 cannot load" and seat.rank == 1:
            raise ValueError("rank 1 cannot")
        return _held(), SimpleNamespace(check=lambda _: None)

    def perform(held: Any, call: r.Call, fds: Any, *, is_cancelled: Any, on_step: Any) -> Any:
        is_cancelled()
        _do(call.arguments["ranks"][seats[0]].get("does"), folder, seats[0], call.id)
        return r.Returned(id=call.id, class_name="tuple", fields={}, seconds=0.0), []

    crew.load_part = following.load_part = load_part
    crew.perform = following.perform = perform
    request = r.Load(folder="", device="cpu", devices=["cpu", "cpu"])

    def follow(theirs: socket.socket) -> None:
        following.run(theirs, request, (), 1, folder)

    ranks = [rank.fork(1, "cpu", (), follow)]
    led = crew.Crew(line, ranks, folder, grace_s=GRACE_S)
    resident.run(line, request, (), led)
    os._exit(0)


def _held() -> Any:
    return SimpleNamespace(
        device=SimpleNamespace(type="cpu"),
        compiled=None,
        weights=SimpleNamespace(bytes=0),
        as_class=lambda _: _OWN,
    )


def _do(what: str | None, folder: Path, rank: int, call: int) -> None:
    import torch

    if what == "draw":
        drawn = [torch.rand(1).item(), __import__("random").random()]
        (folder / f"drawn-{call}-{rank}").write_text(json.dumps(drawn))
    elif what == "hang":
        threading.Event().wait()
    elif what == "raise":
        raise RuntimeError(f"rank {rank} raises")
    elif what == "refuse":
        raise ValueError(f"of no use: {PROMPT}")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
