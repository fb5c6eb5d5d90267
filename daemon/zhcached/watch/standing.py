"""How a model in a watched folder stands, from one look to the next. Pure but for its reader.

Nothing is taken in that changes, lacks something, or is as it was when it was taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from zhcache.errors import Incomplete, NotPermitted, ZhcacheError
from zhcache.protocol.failure import to_info
from zhcache.protocol.watch import WatchedModel, WatchState
from zhcached.watch import whole
from zhcached.watch.memory import Taken, compare
from zhcached.watch.recognise import Model
from zhcached.watch.settle import Rest, settle

LONGEST_RETRY_S = 3600.0


@dataclass(frozen=True)
class Standing:
    """One model's state.

    Attributes:
        model: As it was seen last.
        rest: Since when it has not changed.
        state: What is shown.
        reason: Why it is not taken in, or not wholly.
        commit: Its snapshot.
        job: What takes it in.
        judged: The fingerprint for which ``reason`` holds.
        retry_at: When it is tried again though it did not change, on a monotonic clock.
        failures: How often it was tried in vain.
    """

    model: Model
    rest: Rest
    state: WatchState = "settling"
    reason: ZhcacheError | None = None
    commit: str | None = None
    job: str = ""
    judged: str = ""
    retry_at: float = math.inf
    failures: int = 0

    def shown(self) -> WatchedModel:
        """Returns it as ``watch ls`` shows it."""
        return WatchedModel(
            where=self.model.where or ".",
            repo=str(self.model.repo),
            state=self.state,
            revision=self.model.revision,
            commit=self.commit,
            files=len(self.model.files),
            bytes=sum(held.identity.size for held in self.model.files.values()),
            reason=to_info(self.reason) if self.reason else None,
            skipped=len(self.model.skipped),
            job=self.job,
        )

    def failed(
        self, error: ZhcacheError, *, for_good: bool, now: float, pause_s: float
    ) -> Standing:
        """Returns it after an attempt in vain."""
        wait_s = min(LONGEST_RETRY_S, pause_s * 2**self.failures)
        return replace(
            self,
            state="refused" if for_good else "failed",
            reason=error,
            judged=self.rest.fingerprint,
            retry_at=math.inf if for_good else now + wait_s,
            failures=self.failures + 1,
        )


@dataclass(frozen=True)
class Judged:
    """One model after a look: whether it is to be taken in, and when to look again."""

    standing: Standing
    is_ready: bool = False
    wake_s: float = math.inf


def judge(
    model: Model,
    before: Standing | None,
    taken: Taken | None,
    *,
    is_held: Callable[[Taken], bool],
    read: whole.Read,
    now: float,
    settle_s: float,
) -> Judged:
    """Returns how a model stands after a look.

    Args:
        model: As it is now.
        before: As it stood after the look before.
        taken: As it was when it was taken.
        is_held: Tells whether the store still has that.
        read: Reads the beginning of one of its files.
        now: When, on a monotonic clock.
        settle_s: How long nothing may change.
    """
    rest, left_s = settle(before.rest if before else None, model.fingerprint(), now, settle_s)
    if taken is not None and (same := compare(model, taken)) is not False:
        held = is_held(taken)
        if same or not held:
            return Judged(_taken(model, rest, taken, is_held=held))
    commit = taken.commit if taken else None
    if left_s > 0:
        return Judged(Standing(model, rest, commit=commit), wake_s=left_s)
    if before is not None and before.judged == rest.fingerprint and now < before.retry_at:
        return Judged(replace(before, model=model, rest=rest), wake_s=before.retry_at - now)
    if (error := whole.lacking(model, read)) is not None:
        # Rights may change without a trace in what is compared.
        judged_for = rest.fingerprint if isinstance(error, Incomplete) else ""
        return Judged(Standing(model, rest, "waiting", error, commit=commit, judged=judged_for))
    failures = before.failures if before and before.judged == rest.fingerprint else 0
    return Judged(Standing(model, rest, "taking", commit=commit, failures=failures), is_ready=True)


def _taken(model: Model, rest: Rest, taken: Taken, *, is_held: bool) -> Standing:
    if not is_held:
        return Standing(model, rest, "removed", commit=taken.commit)
    reason = None
    if taken.ref is None and model.kind != "hub":
        reason = NotPermitted(
            "the ref of {repo} is not this folder's: a hub or another user brought it",
            hint="it is here by its commit {commit}; or give the folder another name",
            repo=taken.repo,
            commit=taken.commit,
        )
    return Standing(model, rest, "taken", reason, commit=taken.commit)
