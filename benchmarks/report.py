"""How results are told: Markdown on stdout, progress on stderr, JSON where it is asked for."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def options(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers as well")
    parser.add_argument("--seed", type=int, default=1, help="of order and of random moments")
    return parser


def say(text: str) -> None:
    """Tells whoever waits what is going on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def title(subject: str) -> None:
    """Prints the heading of a result."""
    print(f"# {subject}\n\nMeasured {time.strftime('%Y-%m-%d %H:%M %Z')}.\n", flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def facts(told: Mapping[str, object]) -> None:
    """Prints a two-column table of names and values."""
    table(("what", "value"), told.items())


def spread(values: Sequence[float], form: str = ".0f", scale: float = 1.0) -> str:
    """Returns the median and, in brackets, the smallest and the largest value."""
    scaled = [value * scale for value in values]
    low, high = min(scaled), max(scaled)
    return f"{statistics.median(scaled):{form}} [{low:{form}}..{high:{form}}]"


def goal(meaning: str, bound: str, values: Sequence[float], is_met: bool) -> tuple[str, ...]:
    """Returns a row that sets a median beside its goal."""
    return meaning, bound, spread(values, ".2f"), "met" if is_met else "**missed**"


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Writes the raw numbers, if a file was named."""
    if path is not None:
        path.write_text(json.dumps({"schema": 1, **content}, indent=1) + "\n")
