"""Benchmarks: against the tools people use today, on one machine, in one run.

Importing this package makes the demo hub (``examples/``) and the daemon's harness (``tests/``)
importable, so that each benchmark runs from the project root as ``python -m benchmarks.NAME``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPO = "bench/random"
"""The repository whose one file is downloaded."""
FILE = "weights.safetensors"

sys.path[1:1] = [str(ROOT / "examples"), str(ROOT / "tests")]
