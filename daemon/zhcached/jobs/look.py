"""One look at a followed model: what its revision means now, and whether that is news.

The sources are asked for what they list, never for bytes. The verdict is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from zhcache.errors import IntegrityError, NotFound
from zhcache.protocol.names import RepoId
from zhcached.jobs.brief import Brief
from zhcached.jobs.followed import Entry
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.variants import Wanted, holds
from zhcached.store.digest import Promise
from zhcached.store.snapshots import Manifest, ManifestFile
from zhcached.store.store import Store


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found.

    Attributes:
        commit: What the revision means.
        is_git: Whether hubs can be asked for that commit.
        was: What the ref means here.
        is_wanting: Whether there is something to fetch or to make.
        vouchers: The sources that named the commit.
    """

    commit: str
    is_git: bool
    was: str | None
    is_wanting: bool
    vouchers: tuple[str, ...]


def look(store: Store, prefetcher: Prefetcher, entry: Entry, check: Callable[[], None]) -> Seen:
    """Returns what the entry's revision means now. For any thread.

    Raises:
        Cancelled: ``check`` raised it.
        ZhcacheError: As ``brief.prepare``.
    """
    brief = prefetcher.look(entry.request, check)
    told = brief.primary
    was = store.manifests.refs(brief.repo).get(entry.ref)
    held = _held(store, brief.repo, was)
    if held is not None and is_unchanged(told.commit, held, brief, entry):
        wanted = Wanted(entry.request, prefetcher.variants)
        is_whole = holds(held, wanted.precisions, only_pipeline=entry.only_pipeline)
        # What a fetch of this very commit did not bring, the next one would not either.
        if is_whole or held.commit in (entry.commit, told.commit):
            made = store.variants(brief.repo, held.commit)
            lacks_files = not is_whole and entry.commit != held.commit
            return Seen(
                held.commit,
                is_git=told.has_git_commit,
                was=was,
                is_wanting=lacks_files or any(name not in made for name in entry.variants),
                vouchers=_naming(brief.heads, {held.commit, told.commit}),
            )
    vouchers = _naming(brief.heads, {told.commit})
    return Seen(told.commit, told.has_git_commit, was, is_wanting=True, vouchers=vouchers)


def is_unchanged(commit: str, held: Manifest, brief: Brief, entry: Entry) -> bool:
    """Tells whether what is held is still what the revision means. Pure.

    Args:
        commit: What the first source says it means.
        held: What it means here.
        brief: What the sources say.
        entry: What is remembered.
    """
    if commit == held.commit or is_stale(commit, held.commit, brief.heads, entry):
        return True
    # Another kind of hub gives the same files another commit; what is here need not come twice.
    converted = [file.converted_from.path for file in brief.converted if file.converted_from]
    promised = {str(file.path): file.promise for file in brief.comparison.files}
    return _same_files(held, promised, converted)


def is_stale(commit: str, current: str, heads: Mapping[str, str], entry: Entry) -> bool:
    """Tells whether a commit is an old one, told by a mirror that lags behind. Pure.

    It is, if following has left it behind already, and either a source still names the newer one,
    or none of those answered that did. A branch that was really put back is seen once a source
    that named the newer commit names the older one, and none the newer.
    """
    if commit not in entry.past:
        return False
    answered = set(entry.vouchers) & set(heads)
    return current in heads.values() or not answered


def _naming(heads: Mapping[str, str], commits: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, head in heads.items() if head in commits))


def _held(store: Store, repo: RepoId, commit: str | None) -> Manifest | None:
    try:
        return store.resolve(repo, commit) if commit is not None else None
    except (NotFound, IntegrityError):
        return None


def _same_files(
    held: Manifest, promised: Mapping[str, Promise], converted: Collection[str]
) -> bool:
    here: dict[str, ManifestFile] = {}
    originals: dict[str, str] = {}
    for file in held.files:
        if file.converted_from is None:
            here[file.path] = file
        else:
            originals[file.converted_from.path] = file.converted_from.sha256
    if here.keys() | originals.keys() != promised.keys() | set(converted):
        return False
    return all(
        (path in originals and originals[path] == promise.sha256)
        or (path in here and _is(here[path], promise))
        for path, promise in promised.items()
    )


def _is(file: ManifestFile, promise: Promise) -> bool:
    if file.size != promise.size:
        return False
    if promise.sha256 is not None:
        return file.sha256 == promise.sha256
    return file.git_sha1 == promise.git_sha1
