"""How a process ended, in words that follow "it"."""

from __future__ import annotations

import os
import signal


def in_words(status: int) -> str:
    """Returns what a status of ``waitpid`` means."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL, as the kernel does when memory runs out"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"
