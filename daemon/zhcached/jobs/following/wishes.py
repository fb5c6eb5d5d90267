"""What users say of following: begin, change, end, list; and who may."""

from __future__ import annotations

import asyncio

import msgspec

from zhcache.errors import Busy, NotFound, NotPermitted, ZhcacheError
from zhcache.protocol.follow import Followed, FollowRequest, FollowState
from zhcache.protocol.names import parse_repo
from zhcached.clock import Clock
from zhcached.jobs.following.follow import Follows
from zhcached.jobs.following.followed import Entry
from zhcached.sources.selection import NOT_READ
from zhcached.store.store import Store

MAX_FOLLOWED = 1000


class Following:
    """The door to ``Follows`` for whoever asks. Lives on the event loop.

    Args:
        follows: Does it.
        store: Where models are.
        clock: The time.
    """

    def __init__(self, follows: Follows, store: Store, clock: Clock) -> None:
        self.follows = follows
        self._ledger = follows.ledger
        self._store = store
        self._clock = clock

    async def follow(self, request: FollowRequest, uid: int, *, may_all: bool) -> Followed:
        """Follows a model from now on, or changes how; a look begins at once.

        Args:
            request: What is to be; names in it were checked.
            uid: Who asks.
            may_all: May change what others follow too; it stays theirs.

        Raises:
            NotPermitted: Another user follows it.
            Busy: Very many models are followed.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        now = self._clock.wall()
        before = self._ledger.find(request.repo)
        if before is None and len(self._ledger.all()) >= MAX_FOLLOWED:
            raise Busy(
                "{count} models are followed, the most there may be",
                hint="let one go: zhcache unfollow REPO",
                count=MAX_FOLLOWED,
            )

        is_lean = before is None and await asyncio.to_thread(self._is_lean, request)

        def change(entry: Entry | None) -> Entry:
            if entry is not None:
                _check_owner(entry, uid, may_all=may_all)
            entry = entry or Entry(repo=request.repo, uid=uid, only_pipeline=is_lean)
            return msgspec.structs.replace(_changed(entry, request), due=now)

        entry = await asyncio.to_thread(self._ledger.put, request.repo, change)
        if before is not None and before.request != entry.request:
            await self.follows.fetches.drop(request.repo)
        self.follows.wake()
        return self._picture(entry)

    async def unfollow(self, repo: str, uid: int, *, may_all: bool) -> Followed:
        """Follows a model no longer; what is here stays.

        Raises:
            NotFound: It is not followed.
            NotPermitted: Another user follows it.
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        entry = self._ledger.find(repo)
        if entry is None:
            raise NotFound(
                "{repo} is not followed", hint="`zhcache follow` lists what is", repo=repo
            )
        _check_owner(entry, uid, may_all=may_all)
        await asyncio.to_thread(self._ledger.drop, repo)
        await self.follows.fetches.drop(repo)
        return self._picture(entry)

    def all(self) -> list[Followed]:
        """Returns what is followed, by name."""
        return [self._picture(one) for one in sorted(self._ledger.all(), key=lambda e: e.repo)]

    def _is_lean(self, request: FollowRequest) -> bool:
        """Tells whether the model is here with what pipelines read and no more.

        Then whoever fetched it wanted no more, and following is not to bring the rest.
        """
        try:
            held = self._store.resolve(parse_repo(request.repo), request.revision)
        except ZhcacheError:
            return False
        return NOT_READ in held.left_out.values()

    def _picture(self, entry: Entry) -> Followed:
        fetch = self.follows.fetches.find(entry.repo)
        return Followed(
            repo=entry.repo,
            revision=entry.ref,
            every=self.follows.every(entry),
            variants=list(entry.variants),
            keep=self.follows.keep(entry),
            uid=entry.uid,
            state=self._state(entry),
            commit=entry.commit or None,
            looked=entry.looked or None,
            next=entry.due,
            job=fetch.job if fetch else None,
            failures=entry.failures,
            error=entry.error,
            only_pipeline=entry.only_pipeline,
            allow_pickle=entry.allow_pickle,
        )

    def _state(self, entry: Entry) -> FollowState:
        fetch = self.follows.fetches.find(entry.repo)
        if fetch is not None:
            return "fetching" if fetch.runs else "waiting"
        if entry.repo in self.follows.looking:
            return "looking"
        if entry.error is not None:
            return "failing"
        return "fresh" if entry.commit else "new"


def _changed(entry: Entry, request: FollowRequest) -> Entry:
    """Returns the entry as the request has it; what the request does not say stays."""
    said = {
        "revision": request.revision,
        "every": request.every,
        "keep": request.keep,
        "variants": None if request.variants is None else tuple(dict.fromkeys(request.variants)),
        "only_pipeline": request.only_pipeline,
        "allow_pickle": request.allow_pickle,
    }
    changed = msgspec.structs.replace(entry, **{k: v for k, v in said.items() if v is not None})
    if changed.request == entry.request:
        return changed
    if changed.ref == entry.ref:
        # Whether what is here is all of it is for the next look to tell.
        return msgspec.structs.replace(changed, commit="")
    # What is remembered is of another branch.
    return msgspec.structs.replace(changed, commit="", vouchers=(), heads={}, past=())


def _check_owner(entry: Entry, uid: int, *, may_all: bool) -> None:
    if not may_all and entry.uid != uid:
        raise NotPermitted(
            "{repo} is followed by another user",
            hint="ask uid {owner} or an administrator to change that",
            repo=entry.repo,
            owner=entry.uid,
        )
