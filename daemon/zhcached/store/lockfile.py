"""Lock files: what is held, written down so that exactly it can be had elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from zhcache.errors import UsageError
from zhcache.protocol.messages import LockedFile, LockedRepo
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.store import lookup
from zhcached.store.catalog import Catalog
from zhcached.store.snapshots import IMPORTED, Manifest


def entry(
    catalog: Catalog, text: str, resolve: Callable[[RepoId, str | None], Manifest]
) -> LockedRepo:
    """Returns what a lock file says of ``OWNER/NAME[@REVISION]``.

    Of what was converted here it names what the hub has.

    Args:
        catalog: The index.
        text: What to lock.
        resolve: Returns the snapshot that a revision means; what it raises passes through.

    Raises:
        UsageError: A malformed name, or the commit of a variant.
    """
    name, _, revision = text.partition("@")
    repo = parse_repo(name)
    manifest = resolve(repo, revision or None)
    commit, derived = manifest.commit, manifest.derived
    if derived is not None:
        raise UsageError(
            "{repo} at {commit} is the variant {variant}, which no hub has",
            hint="lock what it was made of: {repo}@{of}",
            repo=repo,
            commit=commit,
            variant=derived.variant,
            of=derived.of,
        )
    # What a user handed over is on no hub, whatever it was made of.
    is_ours = manifest.source == IMPORTED
    published = [f if is_ours else f.converted_from or f for f in manifest.files]
    return LockedRepo(
        repo=str(repo),
        revision=revision or lookup.name_of(catalog, repo, commit),
        commit=commit,
        files=[LockedFile(path=f.path, size=f.size, sha256=f.sha256) for f in published],
        complete=manifest.complete,
    )
