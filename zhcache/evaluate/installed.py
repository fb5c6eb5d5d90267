"""What measuring needs to be installed, checked before anything is read. Imports none of it."""

from __future__ import annotations

import importlib.util

from zhcache.errors import UsageError

LIBRARIES = ("torch", "transformers", "safetensors", "numpy")


def check(libraries: tuple[str, ...] = LIBRARIES) -> None:
    """Checks that the libraries are there.

    Raises:
        UsageError: One is not.
    """
    lacking = [name for name in libraries if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(
            "measuring pictures needs {missing} in this environment",
            hint="pip install 'zhcache[eval]'",
            missing=", ".join(lacking),
        )
