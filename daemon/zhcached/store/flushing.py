"""When written bytes are to go to the disk: soon enough to lose little, seldom enough to be fast.

Pure; not thread-safe.
"""

from __future__ import annotations

from typing import Final

# One chunk below the 32 MiB that a kill may cost: the check comes after the chunk is written.
SYNC_BYTES: Final = 31 << 20
SYNC_SECONDS: Final = 1.0
# A connection waits in the sync: with the disk at work since then it waits a third as long, and
# in smaller steps the calls would only cost CPU.
WRITEBACK_BYTES: Final = 8 << 20


class Flushing:
    """How far the bytes of one file have been sent to the disk.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._begun = 0
        self._synced_at = now

    def wants_writeback(self, unsynced: int) -> bool:
        """Tells, once for each step, whether the disk is to begin on ``unsynced`` bytes."""
        if unsynced - self._begun < WRITEBACK_BYTES:
            return False
        self._begun = unsynced
        return True

    def wants_sync(self, unsynced: int, now: float) -> bool:
        """Tells whether so many bytes are to be synced now."""
        return unsynced >= SYNC_BYTES or (unsynced > 0 and now - self._synced_at >= SYNC_SECONDS)

    def synced(self, now: float) -> None:
        """Says that what was written until now is being synced."""
        self._begun = 0
        self._synced_at = now
