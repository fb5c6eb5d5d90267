"""One look at a followed model: what its revision means now, and whether that is news.

The sources are asked for what they list, never for bytes. The verdict is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from zhcache.errors import IntegrityError, NotFound
from zhcache.protocol.names import RepoId
from zhcached.jobs.asking.brief import Brief
from zhcached.jobs.following.followed import Entry
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
        heads: What each source named, in the order of preference.
        names: What the commit is called: several, where hubs of two kinds have the same files.
    """

    commit: str
    is_git: bool
    was: str | None
    is_wanting: bool
    heads: Mapping[str, str]
    names: Collection[str]

    @property
    def vouchers(self) -> tuple[str, ...]:
        """The sources that named the commit."""
        return tuple(name for name, head in self.heads.items() if head in self.names)


def look(store: Store, prefetcher: Prefetcher, entry: Entry, check: Callable[[], None]) -> Seen:
    """Returns what the entry's revision means now. For any thread.

    Raises:
        Cancelled: ``check`` raised it.
        ZhcacheError: As ``brief.prepare``.
    """
    brief = prefetcher.look(entry.request, check)
    # Not those of sources that were found to lie.
    heads = {name: head for name, head in brief.heads.items() if name in brief.resolutions}
    was = store.manifests.refs(brief.repo).get(entry.ref)
    held = _held(store, brief.repo, was)
    teller = telling(brief.primary.source, heads, held and held.commit, entry, brief.sources)
    commit = held.commit if teller is None and held else brief.primary.commit
    if teller is not None and teller != brief.primary.source:
        commit = heads[teller]
    is_git = brief.resolutions[teller or brief.primary.source].has_git_commit
    if held is None or not (commit == held.commit or _same_files(held, brief, commit)):
        return Seen(commit, is_git, was, is_wanting=True, heads=heads, names={commit})
    wanted = Wanted(entry.request, prefetcher.variants)
    is_whole = holds(held, wanted.precisions, only_pipeline=entry.only_pipeline)
    if not is_whole and held.commit not in (entry.commit, commit):
        return Seen(commit, is_git, was, is_wanting=True, heads=heads, names={commit})
    # What a fetch of this very commit did not bring, the next one would not either.
    lacks_files = not is_whole and entry.commit != held.commit
    made = store.variants(brief.repo, held.commit)
    is_wanting = lacks_files or any(name not in made for name in entry.variants)
    return Seen(held.commit, is_git, was, is_wanting, heads, names={held.commit, commit})


def telling(
    first: str,
    heads: Mapping[str, str],
    current: str | None,
    entry: Entry,
    known: Collection[str],
) -> str | None:
    """Returns the source whose word on the revision counts; None where nobody tells news. Pure.

    What hubs of two kinds call the same model differs in commit, and by a README in content, and
    mirrors lag; so the first source's word would have the ref go to and fro as sources change
    places. Those count who named what is here: it is news once one of them names another, unless
    that was left behind already and somebody still names what is here. Only while none of them
    answers do others count, and only if they name another than they named before.

    Args:
        first: The source that is asked first.
        heads: What each source names, in the order of preference.
        current: What is here, None for nothing.
        entry: What is remembered.
        known: The sources there are.
    """
    if current is None or not any(name in known for name in entry.vouchers):
        return first
    voters = [name for name in heads if name in entry.vouchers]
    changed = [name for name in heads if entry.heads.get(name, heads[name]) != heads[name]]
    for name in voters or changed:
        is_old = heads[name] in entry.past and current in heads.values()
        if heads[name] != current and not is_old:
            return name
    return None


def _held(store: Store, repo: RepoId, commit: str | None) -> Manifest | None:
    try:
        return store.resolve(repo, commit) if commit is not None else None
    except (NotFound, IntegrityError):
        return None


def _same_files(held: Manifest, brief: Brief, commit: str) -> bool:
    """Tells whether a commit has the files of what is held; only the first source's is known."""
    if commit != brief.primary.commit:
        return False
    converted = {file.converted_from.path for file in brief.converted if file.converted_from}
    promised = {str(file.path): file.promise for file in brief.comparison.files}
    here: dict[str, ManifestFile] = {}
    originals: dict[str, str] = {}
    for file in held.files:
        if file.converted_from is None:
            here[file.path] = file
        else:
            originals[file.converted_from.path] = file.converted_from.sha256
    if here.keys() | originals.keys() != promised.keys() | converted:
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
