"""What every kind of call needs of the client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from zhcache.channel import Channel
from zhcache.protocol.messages import Version


class Calls(ABC):
    """A part of ``Client``. ``socket`` is the daemon's."""

    socket: Path

    @abstractmethod
    def version(self) -> Version:
        """Returns the daemon's version as it answers now."""

    @abstractmethod
    def _line(self) -> Channel:
        """Returns the way to a daemon that answers, begun if there is none."""
