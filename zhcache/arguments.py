"""Arguments that cannot be meant, refused before anything is asked of the daemon or imported."""

from __future__ import annotations

from collections.abc import Mapping

from zhcache.errors import UsageError


def check(arguments: Mapping[str, tuple[object, bool, str]]) -> None:
    """Refuses the first argument that cannot be meant.

    Args:
        arguments: For each name its value, whether that is right, and what it takes.

    Raises:
        UsageError: One is not right.
    """
    for name, (value, is_right, allowed) in arguments.items():
        if not is_right:
            raise UsageError(
                "{name}={value} cannot be meant",
                hint="it takes {allowed}",
                name=name,
                value=repr(value)[:80],
                allowed=allowed,
            )
