"""One look at a watched folder, in a thread: what lies there, how each model stands."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from zhcache.errors import ZhcacheError
from zhcache.i18n import mark
from zhcached.clock import Clock
from zhcached.store.layout import remote_name
from zhcached.watch import beneath, whole
from zhcached.watch.memory import Memory, Taken
from zhcached.watch.notices import DROPPED_IN, Group, NoNotices, Notices
from zhcached.watch.recognise import Model, recognise
from zhcached.watch.standing import Standing, judge
from zhcached.watch.tree import Tree, look

_REF = 4096

log = structlog.get_logger()


@dataclass
class Look:
    """What one look found.

    Attributes:
        standing: Each model by its place.
        ready: Places of those that are to be taken in.
        refused: What looks like a model and cannot be one.
        wake_s: When to look again though nobody tells of a change.
    """

    standing: dict[str, Standing] = field(default_factory=dict[str, Standing])
    ready: list[str] = field(default_factory=list[str])
    refused: dict[str, ZhcacheError] = field(default_factory=dict[str, ZhcacheError])
    wake_s: float = math.inf


class Looking:
    """Looks at one folder. One look at a time.

    Args:
        folder: The watched folder.
        memory: What was taken of it.
        is_held: Tells whether the store still has that.
        notices: Where the kernel tells of changes.
        on_change: Called in a thread when it did.
        settle_s: How long nothing may change.
        clock: The time.
    """

    def __init__(
        self,
        folder: Path,
        memory: Memory,
        *,
        is_held: Callable[[Taken], bool],
        notices: Notices,
        on_change: Callable[[], None],
        settle_s: float,
        clock: Clock,
    ) -> None:
        self.folder = folder
        self.memory = memory
        self.polling: ZhcacheError | None = None
        self._is_held = is_held
        self._notices = notices
        self._on_change = on_change
        self._settle_s = settle_s
        self._clock = clock
        self._group: Group | None = None

    def look(self, before: Mapping[str, Standing]) -> Look:
        """Returns what is there now.

        Raises:
            NotFound: The folder is gone.
            NotPermitted: It cannot be read.
            TooMuch: It holds more than is looked at.
            ZhcacheError: The disk failed.
        """
        root = beneath.open_root(self.folder)
        try:
            tree = look(root)
            # What came between this look and the new watches nobody tells of.
            if self._follow(root, tree):
                tree = look(root)
            return self._judge(root, tree, before)
        except OSError as error:
            raise beneath.explain(self.folder, error) from error
        finally:
            os.close(root)

    def close(self) -> None:
        """Asks the kernel for no more notices."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _follow(self, root: int, tree: Tree) -> int:
        if self.polling is not None:
            return 0
        try:
            _check_local(root)
            if self._group is None:
                # What was lost is found by looking, as is what was told.
                self._group = self._notices.group(DROPPED_IN, self._tell, self._overflow)
            return self._group.follow(
                str(self.folder / path) if path else str(self.folder) for path in tree.folders
            )
        except NoNotices as error:
            log.warning("watch.polling", folder=str(self.folder), reason=error.message)
            self.polling = error
            self._group = None
            return 0

    def _tell(self, folder: str, name: str) -> None:
        self._on_change()

    def _overflow(self) -> None:
        log.warning("watch.overflow", folder=str(self.folder))
        self._on_change()

    def _judge(self, root: int, tree: Tree, before: Mapping[str, Standing]) -> Look:
        found = recognise(tree, self.folder, lambda path: beneath.read_file(root, path, _REF))
        seen = Look(refused=found.refused)
        now = self._clock.monotonic()
        for model in found.models:
            judged = judge(
                model,
                before.get(model.where),
                self.memory.of(model.where),
                is_held=self._is_held,
                read=_reader(root, model),
                now=now,
                settle_s=self._settle_s,
            )
            seen.standing[model.where] = judged.standing
            seen.wake_s = min(seen.wake_s, judged.wake_s)
            if judged.is_ready:
                seen.ready.append(model.where)
        return seen


def _check_local(root: int) -> None:
    if name := remote_name(root):
        raise NoNotices(
            mark("it lies on {name}, which tells of no changes: they are looked for"),
            name=name,
        )


def _reader(root: int, model: Model) -> whole.Read:
    return lambda path, limit: beneath.read_file(root, model.files[path].where, limit)
