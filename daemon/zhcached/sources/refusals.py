"""How a hub says no, as what the user is to read: one error and one next step for each reason."""

from __future__ import annotations

from zhcache.errors import Gated, NotFound, NotPermitted, ZhcacheError
from zhcache.i18n import mark
from zhcached.errors import RepoUnavailable, TokenRefused


class RevisionMissing(NotFound):
    """The repository is there, the revision is not. On the wire it is ``NotFound``."""


class TakenDown(NotPermitted):
    """The hub has disabled the repository. On the wire it is ``NotPermitted``."""


def missing_or_private(source: str, repo: str) -> RepoUnavailable:
    """The hub does not tell a missing repository from a private or gated one."""
    return _no(
        source,
        NotFound(
            "{source} shows no repository {repo}",
            hint="check the spelling. A private or gated repository looks the same if the "
            "source has no token (token_env), and hubs may use different names for a "
            "model ([alias])",
            source=source,
            repo=repo,
        ),
    )


def revision_missing(source: str, repo: str, revision: str) -> RepoUnavailable:
    """The repository is there, the branch, tag or commit is not."""
    return _no(
        source,
        RevisionMissing(
            mark("{repo} at {source} has no revision {revision}"),
            hint=mark(
                "leave --revision out for the newest; commits of one hub do not exist at another"
            ),
            source=source,
            repo=repo,
            revision=revision,
        ),
    )


def file_missing(source: str, repo: str) -> RepoUnavailable:
    """It lists a file that it does not send."""
    return _no(
        source,
        NotFound(
            "{source} lists a file of {repo} that it does not have",
            hint="try again: the repository may just have changed; another source may have it",
            source=source,
            repo=repo,
        ),
    )


def gated(source: str, repo: str, endpoint: str) -> RepoUnavailable:
    """Its terms must be accepted first, with an account."""
    return _no(
        source,
        Gated(
            "{repo} is gated at {source}",
            hint="accept its terms at {endpoint}/{repo} and give the daemon the token of that "
            "account (token_env of the source)",
            source=source,
            repo=repo,
            endpoint=endpoint,
        ),
    )


def bad_token(source: str, token_env: str | None) -> TokenRefused:
    """The token that was sent is not one."""
    said = Gated(
        "{source} does not accept the token in {variable}",
        hint="renew it at the hub, put it into the daemon's environment and restart the daemon",
        source=source,
        variable=token_env or "use",
    )
    return TokenRefused(said, source=source)


def token_wanted(source: str) -> TokenRefused:
    """It answers nobody without a token, and was shown none."""
    said = Gated(
        "{source} wants a token and was shown none",
        hint="put it into the daemon's environment, and that variable's name into the source's"
        " token_env",
        source=source,
    )
    return TokenRefused(said, source=source)


def taken_down(source: str, repo: str) -> RepoUnavailable:
    """The hub has disabled it."""
    return _no(
        source,
        TakenDown(
            mark("{source} has disabled access to {repo}"),
            hint=mark("another source may still have it: zhcache sources"),
            source=source,
            repo=repo,
        ),
    )


def forbidden(source: str, repo: str) -> RepoUnavailable:
    """The hub or mirror refuses without saying why."""
    return _no(
        source,
        NotPermitted(
            "{source} refuses to show {repo}",
            hint="mirrors refuse some names; another source may have it, or a token is needed",
            source=source,
            repo=repo,
        ),
    )


def _no(source: str, error: ZhcacheError) -> RepoUnavailable:
    return RepoUnavailable(error, source=source)
