"""What a command needs in the store before it can begin, fetched if it is not there."""

from __future__ import annotations

from pathlib import Path

from zhcache.cli.attend import attend
from zhcache.cli.base import Output, Session
from zhcache.completeness import gaps, is_closed
from zhcache.errors import NotFound
from zhcache.protocol.messages import PrefetchRequest
from zhcache.results import result_of


def ensure(
    session: Session, repo: str, revision: str | None, variant: str | None, output: Output
) -> str:
    """Returns the commit of a snapshot that is held whole; fetches it first, with progress.

    Of a variant it is the commit that it is made of; the variant is then there as well.

    Raises:
        NotFound: No source has it.
        ZhcacheError: What else the fetch met, or the making of the variant.
    """
    try:
        held = session.client.show(repo, revision=revision, variant=variant)
    except NotFound:
        pass
    else:
        # Files that are closed to this user are not to him: what they lack the worker tells.
        if is_closed(Path(held.path)) or not gaps(Path(held.path)):
            return held.commit
        if variant is None and _reads_prompts(session, held.repo, held.commit):
            return held.commit
    request = PrefetchRequest(
        repo=repo,
        revision=session.client.settled(repo, revision) if variant else revision,
        variants=[variant] if variant else [],
        only_pipeline=True,
    )
    return result_of(attend(session, session.client.submit(request), output)).commit


def _reads_prompts(session: Session, repo: str, commit: str) -> bool:
    """Whether a snapshot is all that reads prompts for others: no pipeline, and lacks nothing."""
    models = session.client.prompt_models()
    return any((one.repo, one.commit) == (repo, commit) for one in models)
