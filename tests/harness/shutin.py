"""A program that has a worker forked and shut in as the spawner does it, and convert a component.

``python -m harness.shutin SCRATCH SOURCE TARGET LIBRARY CLASS SCHEME`` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from harness import converted
from zhcache.protocol import frames
from zhcache.protocol.conversion import Part
from zhcached.workers import birth, template


def main() -> None:
    scratch, source, target = map(Path, sys.argv[1:4])
    library, class_name, scheme = sys.argv[4:]
    template.prepare(scratch)
    template.fill_up()
    told = {
        "hindrance": template.hindrance(),
        "imported": [name for name in ("torchao", "sdnq") if name in sys.modules],
    }
    ours, theirs = socket.socketpair()
    words = scratch / "words"
    with theirs, words.open("wb") as output:
        newborn = birth.Newborn(
            "convert", theirs.fileno(), output.fileno(), scratch, [source.parent]
        )
        pid = birth.fork(newborn)
    before = resident(pid)
    with ours:
        frames.send(ours, converted.asked(source, library, class_name, Part(scheme=scheme)))
        made = converted.take(ours, source, target)
    _, status, usage = os.wait4(pid, 0)
    told |= {
        "status": os.waitstatus_to_exitcode(status),
        "grown": usage.ru_maxrss * 1024 - before,
        "words": words.read_text("utf-8"),
        "tools": made.finished.tools,
    }
    json.dump(told, sys.stdout)


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
