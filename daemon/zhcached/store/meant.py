"""Which snapshot a client's words mean: a hub's, or a variant that was made of one."""

from __future__ import annotations

from zhcache.errors import NotFound
from zhcache.protocol.names import parse_repo, parse_revision, parse_variant
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store


def meant(store: Store, repo: str, revision: str | None, variant: str | None) -> Manifest:
    """Returns the snapshot that is meant, without network.

    Args:
        store: Where it is.
        repo: ``OWNER/NAME``.
        revision: Branch, tag or commit, None for the default; of a variant what it was made of.
        variant: A variant's name, or None.

    Raises:
        NotFound: No such snapshot here, or no such variant of it.
        IntegrityError: Its bytes were found damaged.
        UsageError: A name is malformed, or the revision means several commits.
        StoreDamaged: Index or manifest is damaged.
    """
    parsed = parse_repo(repo)
    name = None if variant is None else parse_variant(variant)
    found = store.resolve(parsed, None if revision is None else parse_revision(revision))
    return found if name is None else store.variant(parsed, told(found)[0], name)


def told(manifest: Manifest) -> tuple[str, str | None]:
    """Returns the commit and the variant's name by which users know a snapshot."""
    derived = manifest.derived
    return (manifest.commit, None) if derived is None else (derived.of, derived.variant)


def known_as(store: Store, repo: str, commit: str) -> tuple[str, str | None]:
    """Returns the same of a snapshot that may be gone meanwhile: then its own commit."""
    try:
        return store.origin(parse_repo(repo), commit)
    except NotFound:
        return commit, None
