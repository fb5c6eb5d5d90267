"""What diffusers has under a name that somebody else chose."""

from __future__ import annotations

import diffusers


def of_diffusers(name: object) -> object:
    """Returns what diffusers calls ``name``: a class, a dummy in its place; None if nothing."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        return None
    try:
        return getattr(diffusers, name)
    except (AttributeError, ImportError, RuntimeError):
        # It imports the class only now, and that may fail.
        return None
