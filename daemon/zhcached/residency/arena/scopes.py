"""Who may share one arena, and the arena's name that follows from it.

Sealed memory on the CPU cannot be changed by anybody, so all share it. An importer of GPU memory
can ask for write access (measured), so there the configuration says who trusts whom.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Share = Literal["uid", "group", "off"]

ANY = "any"
GROUP = "group"
_LEASE = "lease:"


def scope_of(device: str, share: Share, uid: int, lease: str) -> str:
    """Returns who may have the arena that this lease asks for."""
    if device == "cpu":
        return ANY
    if share == "group":
        return GROUP
    return f"uid:{uid}" if share == "uid" else _LEASE + lease


def is_private(scope: str) -> bool:
    """Whether it is one lease's alone, and of no use to anybody after it."""
    return scope.startswith(_LEASE)


def key_of(digest: str, device: str, scope: str) -> str:
    """Returns the name of the arena of a component, 64 hex digits."""
    return hashlib.sha256(f"arena-1\n{digest}\n{device}\n{scope}\n".encode()).hexdigest()
