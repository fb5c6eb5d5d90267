"""``python -m zhcached.workers``: the spawner, or one worker in a process of its own.

The same program for both, since a spawner that may not fork starts its workers through it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Runs what is named; returns the process's exit code."""
    options = _parser().parse_args(arguments)
    if options.role == "spawner":
        from zhcached.workers import spawner

        return spawner.main(options.control, options.read, options.scratch, options.idle)
    from zhcached.workers import life

    return life.live(options.role, options.line, options.scratch, options.read, options.parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zhcached.workers", description=__doc__)
    parser.add_argument(
        "role", choices=("spawner", "fill", "resident", "parallel", "check", "convert")
    )
    parser.add_argument("--read", type=Path, action="append", default=[], help="may be read")
    parser.add_argument("--scratch", type=Path, help="where workers may write")
    parser.add_argument("--control", type=int, help="descriptor from which connections come")
    parser.add_argument("--idle", type=float, default=600.0, help="seconds without a worker")
    parser.add_argument("--line", type=int, help="descriptor of a worker's line")
    parser.add_argument("--parent", type=int, help="process with which a worker dies")
    return parser


if __name__ == "__main__":
    sys.exit(main())
