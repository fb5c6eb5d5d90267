"""What went wrong in a worker, as an error that travels: a kind, words, a next step; no traceback.

The traceback goes to the worker's standard error, which is the daemon's log. The words of an error
about arguments do not: they may quote a prompt, which is its author's business.
"""

from __future__ import annotations

import sys
import traceback

import torch

from zhcache.errors import Cancelled, NoSpace, UsageError, ZhcacheError
from zhcache.pipeline.refusals import MAX_WORDS, is_no_memory

_ABOUT_ARGUMENTS = (TypeError, ValueError, LookupError)


class Stopped(BaseException):
    """The call is no longer wanted. No ``except Exception`` in a pipeline may swallow it."""


def described(error: BaseException, device: str) -> ZhcacheError:
    """Returns ``error`` as one of zhcache's own.

    Args:
        error: What a pipeline raised while it was loaded or called.
        device: Where it runs.
    """
    if isinstance(error, ZhcacheError):
        if isinstance(error.__cause__, Exception):
            _log(error.__cause__, with_words=not isinstance(error.__cause__, _ABOUT_ARGUMENTS))
        return error
    if isinstance(error, Stopped):
        return Cancelled("the call was cancelled")
    is_usage = isinstance(error, _ABOUT_ARGUMENTS)
    _log(error, with_words=not is_usage)
    words = str(error).strip()[:MAX_WORDS] or "it gave no reason"
    if is_no_memory(error):
        return NoSpace(
            "{device} has no memory left for this: {reason}",
            hint="fewer images at once, or a smaller size; `zhcache ps` shows what else is there",
            device=device,
            reason=words,
        )
    if is_usage:
        return UsageError(
            "the pipeline refused its arguments: {kind}: {reason}",
            hint="compare them with what the pipeline's class documents",
            kind=type(error).__name__,
            reason=words,
        )
    return ZhcacheError(
        "the pipeline failed: {kind}: {reason}",
        hint="`zhcache logs` has the traceback",
        kind=type(error).__name__,
        reason=words,
    )


def _log(error: BaseException, *, with_words: bool) -> None:
    traceback.print_tb(error.__traceback__, file=sys.stderr)
    # Not what it was raised from: that may be about arguments again.
    words = f": {error}" if with_words else ""
    sys.stderr.write(f"{type(error).__name__}{words}\n")


def is_fatal(error: BaseException) -> bool:
    """Whether the device is lost to this process: after such an error CUDA answers nothing more."""
    if is_no_memory(error):
        return False
    lost = getattr(torch, "AcceleratorError", ())
    return isinstance(error, lost) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )
