"""The stand-ins for the driver's libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cudakit


@pytest.fixture(scope="session")
def stand_ins() -> Path:
    """A folder with libcuda.so.1 and libnvidia-ml.so.1 that need no GPU."""
    if reason := cudakit.lacking():
        pytest.skip(reason)
    return cudakit.build()
