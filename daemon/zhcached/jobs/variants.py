"""Variants in a prefetch: which are asked for, what they need of a snapshot, and their making."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

import msgspec
import structlog

from zhcache.errors import Cancelled, ZhcacheError
from zhcache.protocol.messages import PlannedVariant, PrefetchRequest, VariantResult
from zhcache.protocol.names import RepoPath
from zhcached.convert import recipe as recipes
from zhcached.convert.forecast import forecast
from zhcached.convert.plan import REPORT
from zhcached.convert.report import MAX_REPORT, doubts
from zhcached.convert.variants import Picture, Variants
from zhcached.jobs import state
from zhcached.jobs.asking.brief import Brief
from zhcached.jobs.control import Control
from zhcached.sources.pickles import safe_path
from zhcached.sources.pipeline_files import read_for
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store

log = structlog.get_logger()


class Wanted:
    """The variants of one request, and those that the configuration adds for its repository.

    Attributes:
        asked: What was asked for; not to get it is an error.
        added: What the configuration adds.
    """

    def __init__(self, request: PrefetchRequest, variants: Variants) -> None:
        self.asked = tuple(dict.fromkeys(request.variants))
        added = dict.fromkeys(variants.auto(request.repo))
        self.added = tuple(name for name in added if name not in self.asked)

    @property
    def precisions(self) -> set[str | None]:
        """The published precisions of which ``only_pipeline`` takes the files."""
        added = {name for name in self.added if name in recipes.PUBLISHED}
        return recipes.published(self.asked) | added


def holds(manifest: Manifest, precisions: Collection[str | None], *, only_pipeline: bool) -> bool:
    """Tells whether a snapshot has all that a prefetch of its commit would bring. Pure.

    What of it was left out is known by name, so that what a pipeline needs can be told. Of a
    precision that a hub publishes and that is not here the plain weights will do: it is made.
    """
    if manifest.complete:
        return True
    if not only_pipeline or not manifest.left_out:
        return False
    here = {RepoPath(file.path) for file in manifest.files}
    listing = here | {RepoPath(path) for path in manifest.left_out}
    plain = read_for(listing, [None])
    return all(read_for(listing, [one]) <= here or plain <= here for one in precisions)


class Making:
    """Makes the variants of one job, in its thread.

    Args:
        store: Where they will be.
        variants: Makes them.
        record: The job.
        control: Its way to the queue.
    """

    def __init__(
        self, store: Store, variants: Variants, record: state.Record, control: Control
    ) -> None:
        self._store = store
        self._variants = variants
        self._record = record
        self._control = control
        self.warnings: list[str] = []

    def all(self, manifest: Manifest, wanted: Wanted) -> dict[str, VariantResult]:
        """Returns every variant that is wanted, those already here too.

        Of one that nobody asked for and that cannot be made, ``warnings`` says why; and of each
        what it lacks.

        Raises:
            ZhcacheError: As ``Variants.make``, of one that was asked for.
        """
        if not (wanted.asked or wanted.added):
            return {}
        self._control.enter(state.Converting())
        # What this job brought, and what was here of the same commit before.
        manifest = self._store.resolve(manifest.repo_id, manifest.commit)
        made = {name: self.one(manifest, name) for name in wanted.asked}
        for name in wanted.added:
            try:
                made[name] = self.one(manifest, name)
            except Cancelled:
                raise
            except ZhcacheError as error:
                log.warning("convert.auto_failed", variant=name, error=str(error))
                self.warnings.append(f"the variant {name} was not made: {error}")
        return made

    def one(self, manifest: Manifest, name: str) -> VariantResult:
        """Returns one variant.

        Raises:
            ZhcacheError: As ``Variants.make``.
        """
        made = self._variants.make(manifest, name, self._record.id, self._record.uid, self._show)
        self.warnings += self._doubts(made.manifest)
        folder = self._store.view.snapshot_dir(made.manifest.repo_id, made.manifest.commit)
        return VariantResult(path=str(folder), bytes=made.manifest.bytes, state=made.state)

    def _doubts(self, variant: Manifest) -> list[str]:
        for file in variant.files:
            if file.path == REPORT and file.size <= MAX_REPORT:
                # What is damaged there is for verify to tell.
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    return doubts(self._store.layout.blob(file.sha256).read_bytes())
        return []

    def _show(self, picture: Picture) -> None:
        self._control.check()
        self._control.progress = state.Progress(
            bytes_done=picture.bytes_done,
            bytes_total=picture.bytes_total,
            files=picture.components,
            note=picture.note,
        )


def planned(
    store: Store, variants: Variants, brief: Brief, wanted: Wanted
) -> dict[str, PlannedVariant]:
    """Returns what a dry run tells of the variants; reads no weights and asks nobody."""
    names: Sequence[str] = (*wanted.asked, *wanted.added)
    try:
        here = store.variants(brief.repo, brief.primary.commit) if names else {}
    except ZhcacheError:
        here = {}
    found: dict[str, PlannedVariant] = {}
    converted = brief.selection.converted
    sizes = {
        str(safe_path(file.path) if file.path in converted else file.path): file.promise.size
        for file in brief.comparison.files
    }
    sizes.update({file.path: file.size for file in brief.converted})
    for name in names:
        foreseen = forecast(sizes, recipes.of_name(name, variants.recipes))
        if name in here:
            found[name] = PlannedVariant(
                state="present", bytes=here[name].bytes, sources=foreseen.sources
            )
        else:
            found[name] = foreseen
    return found
