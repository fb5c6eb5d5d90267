"""Followed models: follow one, list them, follow one no longer."""

from __future__ import annotations

from zhcache.errors import UsageError
from zhcache.protocol.follow import Followed, FollowRequest, Follows
from zhcache.protocol.names import is_commit, parse_repo, parse_revision
from zhcached.api.jobs import MAX_VARIANTS
from zhcached.api.route import Call, Route

MAX_EVERY_S = 366 * 86400.0
MAX_KEEP = 100


async def follow(call: Call) -> Followed:
    """Follows a model from now on, or changes how."""
    request: FollowRequest = call.body
    _check(request)
    call.services.prefetcher.variants.check(request.variants or [])
    peer = call.peer
    return await call.services.following.follow(request, peer.uid, may_all=peer.may_all)


def _check(request: FollowRequest) -> None:
    parse_repo(request.repo)
    if request.revision is not None and is_commit(parse_revision(request.revision)):
        raise UsageError(
            "{commit} is a commit, which never changes",
            hint="follow a branch or a tag; `zhcache prefetch {repo} --revision {commit}`"
            " fetches a commit",
            commit=request.revision,
            repo=request.repo,
        )
    if request.every is not None and not 1 <= request.every <= MAX_EVERY_S:
        raise UsageError("a model is looked at every 1s to {days}d", days=int(MAX_EVERY_S / 86400))
    if request.keep is not None and not 0 <= request.keep <= MAX_KEEP:
        raise UsageError("0 to {most} earlier revisions can be kept", most=MAX_KEEP)
    if len(request.variants or []) > MAX_VARIANTS:
        raise UsageError("more than {limit} variants", limit=MAX_VARIANTS)


async def list_followed(call: Call) -> Follows:
    """Lists what is followed."""
    return Follows(followed=call.services.following.all())


async def unfollow(call: Call) -> Followed:
    """Follows a model no longer, if the caller follows it."""
    peer = call.peer
    repo = str(call.repo())
    return await call.services.following.unfollow(repo, peer.uid, may_all=peer.may_all)


ROUTES = (
    Route("GET", "/v1/follows", list_followed, "List followed models", gives=Follows),
    Route("POST", "/v1/follows", follow, "Follow a model", takes=FollowRequest, gives=Followed),
    Route(
        "DELETE", "/v1/follows/{repo:[^/]+(?:/[^/]+)?}", unfollow, "Follow a model no longer",
        gives=Followed,
    ),
)  # fmt: skip
