"""Whose turn it is: calls that wait for one worker, in fair order between users. Pure.

Users take turns, and each user's calls keep the order in which they came. So a user who queues a
thousand calls delays another by one call, not by a thousand.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Items in line, by user. Not thread-safe."""

    def __init__(self) -> None:
        # The first user is next. One whose line is empty is not kept: who comes back goes to the
        # end, behind all who have waited meanwhile.
        self._lines: dict[int, deque[Item]] = {}
        self._served: int | None = None

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def add(self, uid: int, item: Item) -> None:
        """Puts ``item`` at the end of its user's line."""
        is_new = uid not in self._lines
        self._lines.setdefault(uid, deque()).append(item)
        # Whose item is being worked on has had his turn: one who calls again and again would get
        # every third turn beside a user who has several calls waiting, not every second.
        if is_new and self._served in self._lines and self._served != uid:
            self._lines[self._served] = self._lines.pop(self._served)

    def put_back(self, uid: int, item: Item) -> None:
        """Undoes ``take``: it is this user's turn again, with ``item``."""
        line = self._lines.pop(uid, deque())
        line.appendleft(item)
        self._lines = {uid: line, **self._lines}

    def take(self) -> Item | None:
        """Removes and returns whose turn it is, or None where nobody waits."""
        for uid, line in self._lines.items():
            item = line.popleft()
            self._served = uid
            del self._lines[uid]
            if line:
                self._lines[uid] = line
            return item
        return None

    def remove(self, uid: int, item: Item) -> bool:
        """Takes ``item`` out of its line; tells whether it was there."""
        line = self._lines.get(uid)
        if line is None or item not in line:
            return False
        line.remove(item)
        if not line:
            del self._lines[uid]
        return True

    def order(self) -> list[Item]:
        """Returns all items in the order in which ``take`` would give them."""
        lines = [list(line) for line in self._lines.values()]
        longest = max((len(line) for line in lines), default=0)
        return [line[turn] for turn in range(longest) for line in lines if turn < len(line)]
