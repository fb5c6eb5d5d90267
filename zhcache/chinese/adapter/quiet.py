"""Keeps what libraries print away from a training's own lines. Imports diffusers, transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves out the libraries' bars, and warnings such as that a caption is cut: it is meant."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    both: tuple[Any, ...] = (of_diffusers, of_transformers)
    before = [(one, one.get_verbosity(), one.is_progress_bar_enabled()) for one in both]
    try:
        for one in both:
            one.set_verbosity_error()
            one.disable_progress_bar()
        yield
    finally:
        for one, verbosity, had_bars in before:
            one.set_verbosity(verbosity)
            if had_bars:
                one.enable_progress_bar()
