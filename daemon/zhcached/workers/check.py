"""What workers find in their environment: for ``doctor``, without importing any of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from zhcache.protocol.residency import Abilities

_PARTS = (
    *("torch", "diffusers", "transformers", "accelerate", "safetensors", "torchao", "sdnq"),
    *("sentencepiece", "opencc"),
)


def abilities(lacking: Sequence[str]) -> Abilities:
    """Returns the versions that are installed, and ``lacking`` as the sandbox told it."""
    return Abilities(parts={name: _version(name) for name in _PARTS}, lacking=list(lacking))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
