"""What a client can ask about followed models."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from zhcache import resources
from zhcache.calls.calls import Calls
from zhcache.protocol.follow import Followed, FollowRequest, Follows
from zhcache.protocol.names import parse_repo


class FollowCalls(Calls):
    """The part of ``Client`` that followed models are."""

    def followed(self) -> list[Followed]:
        """Returns the followed models, and how each stands."""
        return self._line().call("GET", "/v1/follows", Follows).followed

    def follow(
        self,
        repo: str,
        *,
        revision: str | None = None,
        every_s: float | None = None,
        variants: Sequence[str] | None = None,
        keep: int | None = None,
        only_pipeline: bool | None = None,
        allow_pickle: bool | None = None,
    ) -> Followed:
        """Keeps a model fresh from now on, or changes how; returns at once, a look begins.

        What is None stays as it was said before, or is as the daemon is configured.

        Args:
            repo: ``OWNER/NAME``.
            revision: Branch or tag; at first the default branch.
            every_s: Seconds between two looks, 1 at the least.
            variants: Made of each revision before it counts as here.
            keep: How many earlier revisions stay, of those that following brought.
            only_pipeline: Leave out what ``from_pretrained`` would not read.
            allow_pickle: Convert weights that exist only as pickle, in a sandbox.

        Raises:
            NotPermitted: Another user follows it.
            UsageError: A name is malformed, or the revision is a commit.
        """
        resources.check(repo, revision)
        body = FollowRequest(
            repo=repo,
            revision=revision,
            every=every_s,
            variants=None if variants is None else list(variants),
            keep=keep,
            only_pipeline=only_pipeline,
            allow_pickle=allow_pickle,
        )
        return self._line().call("POST", "/v1/follows", Followed, body=body)

    def unfollow(self, repo: str) -> Followed:
        """Keeps a model fresh no longer; what is here stays. Returns how it stood.

        Raises:
            NotFound: It is not followed.
            NotPermitted: Another user follows it.
        """
        parse_repo(repo)
        return self._line().call("DELETE", f"/v1/follows/{quote(repo, safe='/')}", Followed)
