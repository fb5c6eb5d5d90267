"""What wakes a supervisor that waits for its worker's line."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """An eventfd that can be polled beside a socket. Guarded by its owner's lock.

    Attributes:
        fd: To be polled; -1 once closed.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Wakes who polls; after ``close`` nobody does."""
        if self.fd >= 0:
            os.eventfd_write(self.fd, 1)

    def quieten(self) -> None:
        """Takes back all rings so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self.fd)
        # The number may be another file's by now, and whoever is late must not write there.
        self.fd = -1
