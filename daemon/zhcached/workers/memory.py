"""What a fill writes into: one piece of memory that leaves the worker as a descriptor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Memory(Protocol):
    """Memory for one arena, writable until ``finish``. One thread at a time.

    Attributes:
        flat: ``(bytes,) uint8`` on the device, all zero at first. ``bytes`` is what was asked for,
            rounded up to what the device gives: the ``bytes`` of the arena.
    """

    flat: torch.Tensor

    def put(self, offset: int, source: torch.Tensor) -> None:
        """Copies ``source (n,) uint8`` on the CPU to ``offset``. It may be let go afterwards.

        Quickest in the order of the offsets. Visible in ``flat`` after ``finish`` at the latest.

        Raises:
            ValueError: It does not fit, or is not what is asked for.
        """
        ...

    def finish(self) -> tuple[int, str]:
        """Returns a descriptor, which is the caller's, and the arena's checksum.

        The checksum is empty where the memory is sealed. Afterwards ``flat`` is gone.
        """
        ...

    def close(self) -> None:
        """Lets go of the memory; what ``finish`` returned keeps it. May be called twice."""
        ...
