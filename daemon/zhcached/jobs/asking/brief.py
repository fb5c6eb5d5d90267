"""What a prefetch is going to fetch, decided before the first byte: the brief.

Resolving asks the network; everything after it here is a pure joining of what the sources said,
what the user selected and whom to believe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from zhcache.errors import NotFound, UsageError
from zhcache.protocol.messages import LockedRepo, PrefetchRequest
from zhcache.protocol.names import (
    RepoId,
    RepoPath,
    Revision,
    is_commit,
    parse_path,
    parse_repo,
    parse_revision,
)
from zhcached.config import DownloadConfig
from zhcached.fetch.offer import Offer
from zhcached.jobs.asking.consult import consult
from zhcached.jobs.asking.health import Health
from zhcached.jobs.asking.holders import with_holders
from zhcached.jobs.asking.resolve import explain
from zhcached.jobs.asking.spare import Question, Spare, spares
from zhcached.sources.alias import HubNames
from zhcached.sources.base import (
    BlobSource,
    RemoteFile,
    Resolution,
    Source,
    Tier,
)
from zhcached.sources.health import Lied
from zhcached.sources.pickles import CONVERTED
from zhcached.sources.selection import Selection, select
from zhcached.sources.trust import Comparison, FileTrust, compare
from zhcached.store.snapshots import ManifestFile
from zhcached.swarm.tier import Swarm

DEFAULT_REF = "main"
# Third parties saw ModelScope answer 404 under several ranges of one object below this size
# (hubdl's notes), so such a file comes in one stream.
MODELSCOPE_MIN_SEGMENT = 32 * 2**20
MIN_SEGMENT = 8 * 2**20
NEEDLESS_BYTES = 2**30
NEEDLESS_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Settled:
    """The commit that a branch was found to mean, to which a later brief is held.

    ``is_git`` says that it is git's: sources that have commits are asked for it, and those that
    have none for the branch. One that was derived from a listing can be asked for nowhere.
    """

    commit: str
    is_git: bool


@dataclass(frozen=True, slots=True)
class Brief:
    """One repository at one commit, and where each wanted file may come from.

    ``converted`` are the files here that stand for pickles which need not be fetched. ``heads`` is
    what each source named of itself (``resolve.Answers``). ``near`` are the sources of this site,
    ``holders`` those that send by digest, ``spares`` the hubs that were not asked. What comes by
    ``swarm`` comes before all of them.
    """

    repo: RepoId
    ref: str | None
    primary: Resolution
    resolutions: Mapping[str, Resolution]
    selection: Selection
    comparison: Comparison
    sources: Mapping[str, Source]
    listings: Mapping[str, Mapping[RepoPath, RemoteFile]]
    converted: Sequence[ManifestFile] = ()
    heads: Mapping[str, str] = field(default_factory=dict[str, str])
    near: Collection[str] = ()
    holders: Mapping[str, BlobSource] = field(default_factory=dict[str, BlobSource])
    spares: Mapping[str, Spare] = field(default_factory=dict[str, Spare])
    swarm: Swarm | None = None

    @property
    def revision(self) -> str:
        """What the user asked for, in words to show."""
        return self.ref or self.primary.commit

    @property
    def is_private(self) -> bool:
        """Whether a hub says that not everybody may read it; where none answers, anybody else."""
        return _is_private(self.resolutions.values())

    @property
    def warnings(self) -> list[str]:
        """What the user should hear."""
        spoken = [w for r in self.resolutions.values() for w in r.warnings]
        return [*spoken, *self.comparison.warnings, *self._needless()]

    def _needless(self) -> list[str]:
        total = sum(file.size for file in self.selection.taken)
        needless = self.selection.redundant_bytes
        if needless < NEEDLESS_BYTES or needless < NEEDLESS_SHARE * total:
            return []
        return [
            f"{needless / 2**30:.1f} of {total / 2**30:.1f} GiB are checkpoints and precisions "
            "that from_pretrained does not read; --only-pipeline leaves them out"
        ]

    def offers(
        self, file: FileTrust, config: DownloadConfig, rates: Mapping[str, float | None]
    ) -> tuple[list[Offer], list[Offer]]:
        """Returns who promises the same digest as the first source, and who promises another kind.

        Both are in the order of ``rates``, which says what to expect of each source now.

        A hub that names a file by sha256 and one that names it by git's sha1 may mean different
        files of one size; that shows only when the bytes are there, and is no lie.
        """
        alike: list[Offer] = []
        others: list[Offer] = []
        order = {name: place for place, name in enumerate(rates)}
        able = [*file.served_by, *self.spares]
        for name in sorted(able, key=lambda name: order.get(name, len(order))):
            same = (
                name in self.spares
                or file.promise == file.first_promise
                or self._promises(name, file)
            )
            offer = self._offer(name, file, config, rates.get(name))
            (alike if same else others).append(offer)
        return alike, others

    def _promises(self, source: str, file: FileTrust) -> bool:
        first = file.first_promise
        listed = self.listings.get(source, {}).get(file.path)
        if listed is None:
            # A peer or a tier, which was asked for the sha256 alone.
            return first.sha256 is not None
        by_sha256 = first.sha256 is not None and listed.sha256 == first.sha256
        return by_sha256 or (first.git_sha1 is not None and listed.git_sha1 == first.git_sha1)

    def _offer(
        self, name: str, file: FileTrust, config: DownloadConfig, rate: float | None
    ) -> Offer:
        holder, sha256 = self.holders.get(name), file.promise.sha256
        if self.swarm is not None and name == self.swarm.name and sha256 is not None:
            return self.swarm.offer(sha256, file.promise.size, rate)
        if holder is not None and sha256 is not None:
            return Offer(
                source=name,
                locate=lambda: holder.locate_blob(sha256),
                max_connections=config.connections,
                rate=rate,
                is_near=name in self.near,
            )
        if (spare := self.spares.get(name)) is not None:
            return Offer(
                source=name,
                locate=lambda: spare.locate(file),
                max_connections=config.connections,
                min_segment=MODELSCOPE_MIN_SEGMENT,
                explain=spare.explain,
                rate=rate,
            )
        source, resolution = self.sources[name], self.resolutions[name]
        min_segment = MODELSCOPE_MIN_SEGMENT if source.kind == "modelscope" else MIN_SEGMENT
        return Offer(
            source=name,
            locate=lambda: source.locate(resolution, file.path),
            max_connections=config.connections,
            min_segment=min_segment,
            explain=lambda error: source.explain(resolution, error),
            rate=rate,
            is_near=name in self.near,
        )


def prepare(
    request: PrefetchRequest,
    sources: Sequence[Source],
    health: Health,
    aliases: Mapping[str, HubNames],
    check: Callable[[], None] = lambda: None,
    precisions: Collection[str | None] = (None,),
    converted: Callable[[RepoId, str], Sequence[ManifestFile]] = lambda *_: (),
    choose: Callable[[Sequence[RemoteFile]], Selection] | None = None,
    settled: Settled | None = None,
    tiers: Sequence[Tier] = (),
    is_here: Callable[[str], bool] = lambda _: False,
) -> Brief:
    """Asks the sources and returns the brief.

    Args:
        request: What was asked.
        sources: All there are.
        health: What is known of each.
        aliases: The user's own names for repositories.
        check: Raises when the job is to end.
        precisions: Of which published ``only_pipeline`` takes the weights.
        converted: Returns the files of a commit that were made here of pickles.
        choose: Selects from a listing, in place of what ``request`` says.
        settled: The commit that it must be; no ref is to be moved then.
        tiers: Stores that may have the bytes, by digest alone.
        is_here: Tells of a sha256 that nobody need be asked for it.

    Raises:
        NotFound: No source has the repository or the revision, or the globs leave nothing; or the
            revision is no longer ``settled``.
        Gated: Its terms must be accepted, or the token is wrong.
        NotPermitted: It was taken down.
        UnsafeWeights: Wanted weights exist only as pickle.
        IntegrityError: The sources contradict each other, or a listing is hostile.
        SourcesFailed: None could be asked.
    """
    repo = parse_repo(request.repo)
    asked = _ranked(sources, tiers, health, request.source)
    # One source alone was asked for: then no other one brings bytes either.
    stores = () if request.source else [*tiers]
    wanted = _revision_at(request, settled)
    answers = consult(asked, repo, wanted, aliases, health, check)
    if not answers.found:
        raise explain(repo, answers.failures)
    resolutions = _at(settled, repo, answers.found)
    here = converted(repo, resolutions[0].commit)
    selection, comparison = _decide(request, resolutions, precisions, here, choose)
    for name, proof in comparison.liars.items():
        health.observe(name, Lied(proof))
    if resolutions[0].source in comparison.liars:
        # What a liar lists is no ground to select from.
        honest = [r for r in resolutions if r.source not in comparison.liars]
        resolutions = _at(settled, repo, honest)
        here = converted(repo, resolutions[0].commit)
        selection, comparison = _decide(request, resolutions, precisions, here, choose)
    if _is_private(resolutions):
        # Who takes from a swarm gives to it.
        stores = [tier for tier in stores if not isinstance(tier, Swarm)]
    return Brief(
        repo=repo,
        ref=None if settled else _ref(request),
        primary=resolutions[0],
        resolutions={resolution.source: resolution for resolution in resolutions},
        selection=selection,
        comparison=with_holders(comparison, asked, stores, answers, health, is_here),
        sources={source.name: source for source in asked},
        listings={r.source: {file.path: file for file in r.files} for r in resolutions},
        converted=[file for file in here if _stands_in(file, selection)],
        heads=answers.heads,
        near=health.near,
        holders=_holders(asked, stores),
        swarm=next((tier for tier in stores if isinstance(tier, Swarm)), None),
        spares=spares(asked, answers, Question(repo, resolutions[0], wanted, aliases), health),
    )


def _at(settled: Settled | None, repo: RepoId, found: Sequence[Resolution]) -> Sequence[Resolution]:
    """Returns the resolutions, first those of the commit that it must be.

    Raises:
        NotFound: None is of that commit.
    """
    if settled is None:
        return found
    in_order = sorted(found, key=lambda one: one.commit != settled.commit)
    if not in_order or in_order[0].commit != settled.commit:
        raise NotFound(
            "no source has {repo} at {commit} any more",
            hint="it has moved on: the next look finds what it is now",
            repo=repo,
            commit=settled.commit,
        )
    return in_order


def narrowed(brief: Brief, path: RepoPath) -> Brief:
    """Returns the brief of one file of ``brief``. Pure."""
    taken = tuple(file for file in brief.selection.taken if file.path == path)
    files = tuple(file for file in brief.comparison.files if file.path == path)
    return dataclasses.replace(
        brief,
        selection=Selection(taken, {}, 0),
        comparison=msgspec.structs.replace(brief.comparison, files=files),
    )


def _decide(
    request: PrefetchRequest,
    resolutions: Sequence[Resolution],
    precisions: Collection[str | None],
    here: Sequence[ManifestFile],
    choose: Callable[[Sequence[RemoteFile]], Selection] | None,
) -> tuple[Selection, Comparison]:
    if choose is not None:
        selection = choose(resolutions[0].files)
        return selection, compare(resolutions, [file.path for file in selection.taken])
    listing = _locked_files(request.lock) if request.lock else resolutions[0].files
    promised = {str(file.path): file.sha256 for file in listing}
    originals = [file.converted_from for file in here if file.converted_from]
    selection = select(
        listing,
        include=request.include,
        exclude=request.exclude,
        only_pipeline=request.only_pipeline,
        variants=precisions,
        allow_pickle=request.allow_pickle,
        converted=[o.path for o in originals if promised.get(o.path) in (None, o.sha256)],
    )
    paths = [file.path for file in selection.taken]
    return selection, compare(resolutions, paths, lock=request.lock)


def _stands_in(file: ManifestFile, selection: Selection) -> bool:
    original = file.converted_from
    if original is None or original.path in selection.converted:
        return False
    return selection.left_out.get(original.path) == CONVERTED


def _locked_files(lock: LockedRepo) -> list[RemoteFile]:
    return [RemoteFile(parse_path(file.path), file.size, file.sha256) for file in lock.files]


def _is_private(told: Collection[Resolution]) -> bool:
    return any(one.private for one in [one for one in told if one.is_hub] or told)


def _holders(sources: Sequence[Source], tiers: Sequence[Tier]) -> dict[str, BlobSource]:
    return {one.name: one for one in (*sources, *tiers) if isinstance(one, BlobSource)}


def _ranked(
    sources: Sequence[Source], tiers: Sequence[Tier], health: Health, only: str | None
) -> list[Source]:
    by_name = {source.name: source for source in sources}
    if only is not None:
        if any(tier.name == only for tier in tiers):
            raise UsageError(
                "{name} has bytes alone: it cannot say what a repository is",
                hint="leave --source out; what {name} has comes from there all the same",
                name=only[:80],
            )
        if only not in by_name:
            raise UsageError(
                "there is no source named {name}",
                hint="zhcache sources lists them: {known}",
                name=only[:80],
                known=", ".join(by_name),
            )
        return [by_name[only]]
    return [by_name[name] for name in health.for_metadata() if name in by_name]


def _revision_at(
    request: PrefetchRequest, settled: Settled | None
) -> Callable[[Source], Revision | None]:
    asked = parse_revision(request.revision) if request.revision else None
    if settled is not None and settled.is_git:
        commit = parse_revision(settled.commit)
        return lambda source: asked if source.kind == "modelscope" else commit
    if request.lock is None:
        return lambda _: asked
    pinned = parse_revision(request.lock.commit)
    # A hub without commits cannot be asked for one; its files are held to the lock's hashes.
    return lambda source: None if source.kind == "modelscope" else pinned


def _ref(request: PrefetchRequest) -> str | None:
    """Returns the ref that a request moves; None for a commit."""
    named = request.lock.revision if request.lock else request.revision
    if not named:
        return DEFAULT_REF
    return None if is_commit(named) else named
