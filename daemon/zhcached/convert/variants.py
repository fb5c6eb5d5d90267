"""Variants: a snapshot's weights in another precision, made once and kept as a snapshot.

The base is leased meanwhile. What a component became is remembered as soon as it is done, and
nothing is to be seen of a variant until all of it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import msgspec
import structlog

from zhcache.errors import IntegrityError, NotFound, UsageError
from zhcache.protocol.messages import FileProgress
from zhcached.clock import Clock
from zhcached.config import ConvertConfig, RecipeConfig
from zhcached.convert import recipe as recipes
from zhcached.convert.places import Places
from zhcached.convert.plan import REPORT, Plan, Work, indexes_of, plan
from zhcached.convert.report import report as told_of
from zhcached.convert.runner import STALL_S, Conversion, Converted
from zhcached.convert.unfinished import Unfinished, sweep
from zhcached.convert.weights import MAX_INDEX, base
from zhcached.errors import StoreDamaged
from zhcached.residency.arena.contents import classes
from zhcached.residency.launch.launch import Launcher
from zhcached.store.digest import Promise
from zhcached.store.snapshots import DERIVED, Derived, Manifest, ManifestFile
from zhcached.store.store import Store

log = structlog.get_logger()

Hold = Callable[[str, Callable[[], None]], AbstractContextManager[None]]
"""Takes a key for itself alone, once nobody else has it; calls the second while it waits."""


class Made(msgspec.Struct, frozen=True):
    """A variant, and whether it was converted, there before, or all of it published by the hub."""

    manifest: Manifest
    state: Literal["made", "present", "published"]


class Picture(msgspec.Struct, frozen=True):
    """How far the making of a variant is. Bytes are of the weights that are read."""

    note: str
    bytes_done: int = 0
    bytes_total: int = 0
    components: tuple[FileProgress, ...] = ()


Show = Callable[[Picture], None]
"""Is called every now and then; what it raises ends the work."""


class Variants:
    """Makes variants. Thread-safe; ``make`` blocks for as long as it takes.

    Args:
        store: Where snapshots are.
        config: How much at once, and what is made unasked.
        recipes: Those of the configuration.
        clock: The time.
        launcher: Starts workers.
        hold: Sees to it that one job makes a variant and the others wait.
        make_room: Makes sure that so many bytes fit, or raises NoSpace.
        stall_s: How long a worker may be silent.
    """

    def __init__(
        self,
        store: Store,
        config: ConvertConfig,
        recipes: Mapping[str, RecipeConfig],
        *,
        clock: Clock,
        launcher: Launcher,
        hold: Hold,
        make_room: Callable[[int], None],
        stall_s: float = STALL_S,
    ) -> None:
        self.recipes = recipes
        self._store = store
        self._config = config
        self._clock = clock
        self._launcher = launcher
        self._hold = hold
        self._make_room = make_room
        self._stall_s = stall_s
        self.places = Places(config.workers)

    def auto(self, repo: str) -> Sequence[str]:
        """Returns the variants that every prefetch of a repository makes."""
        return self._config.auto.get(repo, ())

    def check(self, names: Collection[str]) -> None:
        """Checks that there is a recipe for each.

        Raises:
            UsageError: There is none for one; the hint names those there are.
        """
        for name in names:
            recipes.of_name(name, self.recipes)

    def sweep(self) -> None:
        """Deletes the records of conversions that nobody went on with."""
        sweep(
            self._store.layout.conversions,
            self._clock.wall() - self._store.config.keep_partial,
        )

    def make(self, of: Manifest, name: str, job: str, uid: int, show: Show) -> Made:
        """Returns the variant of a snapshot, made if it is not here or is damaged.

        The blobs are held for ``job`` until ``leases.release_holds``.

        Args:
            of: The snapshot.
            name: The variant's.
            job: The job that makes it.
            uid: Who asks.
            show: Told how far it is.

        Raises:
            UsageError: There is no such recipe, or none that fits; or it is no pipeline; or the
                workers lack a package.
            Incomplete: Weights of it are not here.
            UnsafeWeights: Weights of it are pickle.
            IntegrityError: Its index, a shard index or its weights cannot be used.
            WorkerDied: A worker ended early.
            NoSpace: No room.
            Cancelled: ``show`` raised it.
            ZhcacheError: No worker can be started; or the disk failed.
        """
        if of.derived is not None:
            raise UsageError(
                "{commit} of {repo} is a variant itself, of which none is made",
                hint="name the snapshot it was made of: {of}",
                commit=of.commit,
                repo=of.repo,
                of=of.derived.of,
            )
        planned = self._plan(of, name)
        if (found := self._present(of, planned)) is not None:
            return Made(found, "present")
        tools = self._tools(planned)
        commit = recipes.commit(of.commit, planned.recipe, tools)
        waiting = Picture(f"waits for another job that makes {name}")
        with self._hold(f"variant {of.repo} {commit}", lambda: show(waiting)):
            if (found := self._present(of, planned)) is not None:
                return Made(found, "present")
            lease = self._store.leases.grant(of.repo_id, of.commit, uid=uid, pid=os.getpid())
            try:
                made = self._make(of, planned, tools, commit, _For(job, uid, show))
            finally:
                self._store.leases.end(lease)
        return Made(made, "published" if planned.is_published else "made")

    def _plan(self, of: Manifest, name: str) -> Plan:
        named = classes(self._store, of)
        indexes = {file.path: self._read(file) for file in indexes_of(of, named)}
        return plan(of, named, recipes.of_name(name, self.recipes), indexes)

    def _read(self, file: ManifestFile) -> bytes:
        if file.size > MAX_INDEX:
            raise IntegrityError(
                "the shard index {path} cannot be used: {reason}",
                hint="it was published so and the store is sound: take another revision",
                path=file.path,
                reason=f"{file.size} bytes",
            )
        try:
            return self._store.layout.blob(file.sha256).read_bytes()
        except OSError as error:
            raise StoreDamaged(reason=f"{file.path}: {error}") from error

    def _present(self, of: Manifest, planned: Plan) -> Manifest | None:
        try:
            found = self._store.variant(of.repo_id, of.commit, planned.name)
        except (NotFound, IntegrityError):
            return None
        # Newer tools are no reason to make it again.
        is_same = found.derived is not None and found.derived.recipe == planned.recipe
        return found if is_same else None

    def _tools(self, planned: Plan) -> dict[str, str]:
        parts = planned.parts.values()
        if not recipes.is_quantized(parts):
            # Workers are asked only where it matters.
            return {}
        return recipes.tools(parts, self._launcher.abilities().parts)

    def _make(
        self, of: Manifest, planned: Plan, tools: Mapping[str, str], commit: str, asked: _For
    ) -> Manifest:
        self.sweep()
        unfinished = Unfinished(self._store.layout.conversions / f"{commit}.json")
        done = {
            work.component: earlier
            for work in planned.work
            if (earlier := unfinished.done.get(work.component)) and self._take_up(earlier, asked)
        }
        todo = [work for work in planned.work if work.component not in done]
        self._make_room(sum(work.estimate for work in todo))
        log.info("convert.started", variant=planned.name, todo=[w.component for w in todo])
        folder = str(self._store.view.snapshot_dir(of.repo_id, of.commit))
        conversions = [
            Conversion(
                work,
                folder,
                asked.job,
                launcher=self._launcher,
                intake=self._store.intake,
                stall_s=self._stall_s,
            )
            for work in sorted(todo, key=lambda work: work.bytes, reverse=True)
        ]
        converted = self.places.run(
            conversions,
            lambda work, made: unfinished.add(work.component, made),
            lambda: asked.show(_picture(conversions, planned.name)),
        )
        done |= {work.component: made for work, made in converted}
        manifest = self._manifest(of, planned, tools, done, asked)
        manifest = msgspec.structs.replace(manifest, commit=commit)
        self._displace(manifest)
        self._store.publish(manifest, None)
        unfinished.forget()
        log.info("convert.published", variant=planned.name, commit=commit, bytes=manifest.bytes)
        return manifest

    def _take_up(self, earlier: Converted, asked: _For) -> bool:
        """Tells whether all that a component became is still here, and holds it."""
        return all(
            self._store.presence.find(Promise(made.size, made.sha256, None), asked.job) is not None
            for made in earlier.files.values()
        )

    def _manifest(
        self,
        of: Manifest,
        planned: Plan,
        tools: Mapping[str, str],
        done: Mapping[str, Converted],
        asked: _For,
    ) -> Manifest:
        by_path = {
            path: msgspec.structs.replace(file, path=path) for path, file in planned.taken.items()
        }
        for work in planned.work:
            by_path.update(_files(work, done[work.component], of))
        told = told_of(of.repo, of.commit, planned, tools, done)
        for path, content in {**planned.rewritten, REPORT: told}.items():
            made = self._store.intake.put(content, asked.job)
            by_path[path] = ManifestFile(path, made.size, made.sha256, trust=of.trust)
        return Manifest(
            repo=of.repo,
            commit=of.commit,
            created=self._clock.wall(),
            source=DERIVED,
            trust=of.trust,
            uid=asked.uid,
            files=tuple(by_path[path] for path in sorted(by_path)),
            derived=Derived(of.commit, planned.name, planned.recipe),
            private=not of.is_public,
        )

    def _displace(self, manifest: Manifest) -> None:
        """Lets go of what lies at this commit and is another: tools that are not exact, or a
        name whose recipe was changed and changed back, which has to be the newest again.
        """
        repo = manifest.repo_id
        assert manifest.derived is not None
        try:
            held = self._store.manifests.read(repo, manifest.commit)
        except FileNotFoundError:
            return
        newest = self._store.variants(repo, manifest.derived.of).get(manifest.derived.variant)
        is_same = {f.path: f.sha256 for f in held.files} == {
            f.path: f.sha256 for f in manifest.files
        }
        if not is_same or newest is None or newest.commit != held.commit:
            log.warning("convert.displaced", commit=held.commit)
            self._store.remove(repo, held.commit)


class _For(msgspec.Struct, frozen=True):
    """For whom a variant is made."""

    job: str
    uid: int
    show: Show


def _picture(conversions: Sequence[Conversion[Work]], variant: str) -> Picture:
    parts = tuple(
        FileProgress(path=c.work.component, size=c.work.bytes, done=c.bytes_done)
        for c in conversions
    )
    now = ", ".join(part.path for part in parts if 0 < part.done < part.size)
    return Picture(
        note=f"converting {now or 'components'} to {variant}",
        bytes_done=sum(part.done for part in parts),
        bytes_total=sum(part.size for part in parts),
        components=tuple(part for part in parts if part.done < part.size),
    )


def _files(work: Work, converted: Converted, of: Manifest) -> dict[str, ManifestFile]:
    """Returns the files that a component has become, by their path in the variant."""
    found: dict[str, ManifestFile] = {}
    for file in work.weights.files:
        if base(file.path) in converted.same:
            path = f"{work.component}/{work.weights.plain[base(file.path)]}"
            found[path] = msgspec.structs.replace(file, path=path)
    for name, made in converted.files.items():
        path = f"{work.component}/{name}"
        found[path] = ManifestFile(path, made.size, made.sha256, trust=of.trust)
    return found
