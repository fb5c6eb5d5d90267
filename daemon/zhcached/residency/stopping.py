"""One request to let a model go, carried through all tiers: what went, what stays and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from zhcache.errors import Busy, NotFound, NotPermitted
from zhcache.protocol.names import RepoId
from zhcache.protocol.residency import Stopped
from zhcached.residency.arena.arenas import Arenas
from zhcached.residency.devices import CPU
from zhcached.residency.pages.pages import Pages
from zhcached.residency.resident.residents import Residents


class Stopping:
    """Collects, so that what one tier refuses keeps nothing in another.

    Args:
        repo: What is to go.
        device: Only there; None is everywhere.
        uid: Who asks.
        may_all: May stop what others keep.
        force: What is in use as well.
        variant: Only this variant of it, or None.
        has: Tells the same of a snapshot's own commit.
    """

    def __init__(
        self,
        repo: RepoId,
        device: str | None,
        uid: int,
        *,
        may_all: bool,
        force: bool,
        variant: str | None = None,
        has: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._repo = repo
        self._device = device
        self._variant = variant
        self._has = has
        self._uid = uid
        self._may_all = may_all
        self._force = force
        self._freed: Counter[str] = Counter()
        self._holders: list[str] = []
        self._refused: NotPermitted | None = None

    def residents(self, residents: Residents) -> None:
        """Lets workers go."""
        try:
            done = residents.stop(
                str(self._repo),
                uid=self._uid,
                may_all=self._may_all,
                variant=self._variant,
                device=self._device,
                force=self._force,
            )
        except NotFound:
            return
        for device, size in done.freed:
            self._freed[device] += size
        self._holders += done.holders
        if done.keepers:
            self._refused = self._kept_by(done.keepers)
        if done.owners:
            self._refused = NotPermitted(
                "{repo} is in use by another user: {holders}",
                hint="ask them, or an administrator, to stop it",
                repo=self._repo,
                holders="; ".join(done.owners),
            )

    def arenas(self, arenas: Arenas) -> None:
        """Lets arenas go."""
        try:
            size, devices = arenas.stop(
                str(self._repo),
                self._device,
                lambda uid: self._may_all or uid == self._uid,
                force=self._force,
                has=self._has,
            )
        except NotPermitted as error:
            self._refused = error
        except Busy as error:
            self._holders.append(str(error.values["holders"]))
        else:
            # Bytes are told of all of them together.
            for device in devices:
                self._freed[device] += size
                size = 0

    def pages(self, pages: Pages, holders: Sequence[str]) -> None:
        """Lets files go.

        Args:
            pages: What is kept of them.
            holders: Who maps them now.
        """
        if self._device not in (None, CPU):
            return
        repo = str(self._repo)
        kept = [r.uid for r in pages.listing() if r.repo == repo and self._has(r.commit)]
        mine = [uid for uid in kept if self._may_all or uid == self._uid]
        if holders and not self._force:
            self._holders += holders
        elif mine:
            whose = None if self._may_all else self._uid
            self._freed[CPU] += pages.stop(self._repo, whose, self._has)
        elif kept:
            self._refused = self._kept_by(kept)

    def _kept_by(self, uids: Iterable[int]) -> NotPermitted:
        return NotPermitted(
            "{repo} is kept warm by uid {owners}",
            hint="ask them, or an administrator, to stop it",
            repo=self._repo,
            owners=", ".join(str(uid) for uid in sorted(set(uids))),
        )

    def outcome(self) -> Stopped:
        """Returns what went.

        Raises:
            Busy: Something is in use; what was not is gone.
            NotPermitted: Nothing went, and others keep it.
            NotFound: Nothing of it was warm.
        """
        if self._holders:
            raise Busy(
                "{repo} is in use by {holders}",
                hint="wait for them, or let it go all the same: zhcache stop --force {repo}",
                repo=self._repo,
                holders="; ".join(dict.fromkeys(self._holders)),
            )
        if self._refused is not None and not self._freed:
            raise self._refused
        if not self._freed:
            raise NotFound("nothing of {repo} is warm", hint="see `zhcache ps`", repo=self._repo)
        return Stopped(repo=str(self._repo), bytes=self._freed.total(), devices=sorted(self._freed))
