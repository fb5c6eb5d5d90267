"""What workers would find here: told to ``doctor`` without importing any of it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version

from zhcached.workers import landlock, seccomp

_PARTS = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "cuda-bindings")


def main() -> int:
    """Prints the versions and what the kernel can keep workers from, as one JSON object."""
    found = {"parts": {name: _version(name) for name in _PARTS}}
    able = {"landlock": landlock.version(), "seccomp": seccomp.is_known()}
    sys.stdout.write(json.dumps({**found, **able}) + "\n")
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
