"""What a variant is made of: which files are taken over, which components are converted. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from zhcache.errors import Incomplete, UnsafeWeights, UsageError
from zhcache.protocol.conversion import Convert, Part, SchemeName, Source
from zhcache.protocol.names import RepoPath, check_listing, parse_path
from zhcached.convert import recipe as recipes
from zhcached.convert.recipe import Recipe
from zhcached.convert.weights import Weights, base, choose, renamed, shards, variants
from zhcached.sources import pickles
from zhcached.sources.pipeline_files import read_by_from_pretrained, weight_name
from zhcached.store.snapshots import Manifest, ManifestFile

REPORT = "zhcache-variant.json"
"""The file of a variant that tells how it was made."""

Classes = Mapping[str, tuple[str, str]]
"""Of a pipeline: component -> (library, class)."""

# Of the source's bytes, where that is fp32 as most often; only for telling early that the disk is
# too small. The drafts reserve what they really take.
_SHARE: Mapping[SchemeName, float] = {
    "fp32": 1.0,
    "fp16": 0.5,
    "bf16": 0.5,
    "fp8": 0.3,
    "int8": 0.3,
}
_SMALLEST_SHARE = 0.2


class Work(msgspec.Struct, frozen=True):
    """One component that a worker converts.

    Attributes:
        component: Its name, which is its folder's.
        library: As ``model_index.json`` names it.
        class_name: Likewise.
        part: What it becomes.
        weights: What is read.
    """

    component: str
    library: str
    class_name: str
    part: Part
    weights: Weights

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"{self.component} to {self.part.scheme}"

    @property
    def bytes(self) -> int:
        """Of what is read."""
        return self.weights.bytes

    @property
    def estimate(self) -> int:
        """Of what is written, roughly."""
        return int(self.bytes * _SHARE.get(self.part.scheme, _SMALLEST_SHARE))

    def request(self, folder: str) -> Convert:
        """Returns what the worker is asked, for the snapshot in ``folder``."""
        index = self.weights.index
        return Convert(
            folder=folder,
            component=self.component,
            library=self.library,
            class_name=self.class_name,
            part=self.part,
            weights=[Source(path=base(f.path), size=f.size) for f in self.weights.files],
            index=base(index.path) if index else None,
            rename={old: new for old, new in self.weights.plain.items() if old != new},
        )


class Plan(msgspec.Struct, frozen=True):
    """How a variant is made.

    Attributes:
        name: The variant's.
        parts: What each component with weights becomes.
        taken: Files that are the base's, by the path they have in the variant.
        rewritten: Small files that differ from the base's, by path.
        work: What workers convert.
        inputs: The sha256 of each file of the base that counts, by its path there.
    """

    name: str
    parts: dict[str, Part]
    taken: dict[str, ManifestFile]
    rewritten: dict[str, bytes]
    work: tuple[Work, ...]
    inputs: dict[str, str]

    @property
    def is_published(self) -> bool:
        """Whether the hub published all of it."""
        return not self.work

    @property
    def recipe(self) -> str:
        """The digest of what is made and of what."""
        return recipes.digest(self.name, self.parts, self.inputs)


def plan(
    manifest: Manifest, classes: Classes, recipe: Recipe, indexes: Mapping[str, bytes]
) -> Plan:
    """Returns how the variant is made of a snapshot.

    Args:
        manifest: The snapshot, which is no variant itself.
        classes: Of its pipeline.
        recipe: What its components become.
        indexes: The content of the shard indexes that ``indexes_of`` names.

    Raises:
        Incomplete: Weights of a component are not here, or not all of them.
        UnsafeWeights: Those of a component are pickle.
        IntegrityError: A shard index is missing or cannot be read; or a file that is taken over
            lies where another has to be.
        UsageError: There are no weights, or the recipe is for other components.
    """
    folders = _folders(manifest, classes)
    chosen = {
        name: weights
        for name, files in folders.items()
        if (weights := _weights(manifest, name, files, classes[name][0], recipe)) is not None
    }
    if not chosen:
        raise UsageError(
            "{repo} has no weights of which a variant could be made", repo=manifest.repo
        )
    for name, weights in chosen.items():
        if weights.index is not None:
            chosen[name], lacking = shards(weights, indexes[weights.index.path])
            _demand(manifest, name, lacking)
    parts = recipes.parts(recipe, {name: classes[name] for name in chosen})
    taken = {file.path: file for file in _small(manifest, classes)}
    made = Plan(recipe.name, parts, taken, {}, (), {f.path: f.sha256 for f in taken.values()})
    work: list[Work] = []
    for name, weights in chosen.items():
        for file in (*weights.files, *([weights.index] if weights.index else [])):
            made.inputs[file.path] = file.sha256
        if recipe.name in recipes.PUBLISHED and _is_of(weights, recipe.name):
            _take_over(made, name, weights, indexes)
        else:
            work.append(Work(name, *classes[name], parts[name], weights))
    _check_paths(made, work)
    return msgspec.structs.replace(made, work=tuple(work))


def indexes_of(manifest: Manifest, classes: Classes) -> list[ManifestFile]:
    """Returns the shard indexes that ``plan`` may want to see."""
    return [
        file
        for files in _folders(manifest, classes).values()
        for file in files
        if (found := weight_name(base(file.path))) and found.is_index
        and found.suffix == "safetensors"
    ]  # fmt: skip


def _folders(manifest: Manifest, classes: Classes) -> dict[str, list[ManifestFile]]:
    """Returns the files right in each component's folder; the root is none, whatever is named."""
    by_folder: dict[str, list[ManifestFile]] = defaultdict(list)
    for file in manifest.files:
        folder = file.path.rpartition("/")[0]
        if folder and "/" not in folder:
            by_folder[folder].append(file)
    return {name: by_folder[name] for name in classes if name in by_folder}


def _weights(
    manifest: Manifest, name: str, files: Sequence[ManifestFile], library: str, recipe: Recipe
) -> Weights | None:
    """Returns what is read of a component; None if it is one that has no weights."""
    wanted: list[str | None] = [recipe.name] if recipe.name in recipes.PUBLISHED else []
    # A component that was published in variants alone is better than none.
    for variant in (*wanted, None, *variants(files)):
        if (found := choose(files, library, variant)) is not None:
            return found
    names = {base(file.path) for file in files}
    if pickled := [file.path for file in files if pickles.is_pickle(file.path)]:
        raise UnsafeWeights(
            "{path} is pickle, of which no variant is made",
            hint="convert it once on a machine you can lose, to safetensors, and import the folder",
            path=pickled[0],
        )
    is_model = "config.json" in names and not any(n.startswith("tokenizer") for n in names)
    left_out = [path for path in manifest.left_out if path.startswith(f"{name}/")]
    if is_model or any(weight_name(base(path)) for path in left_out):
        _demand(manifest, name, ["*.safetensors"])
    return None


def _demand(manifest: Manifest, component: str, lacking: Sequence[str]) -> None:
    if lacking:
        raise Incomplete(
            "{repo} is not whole here: {component}/{path} is missing",
            hint="fetch the rest with `zhcache prefetch {repo} --revision {commit}`",
            repo=manifest.repo,
            component=component,
            path=lacking[0][:200],
            commit=manifest.commit,
        )


def _small(manifest: Manifest, classes: Classes) -> list[ManifestFile]:
    """Returns the files that a variant has as its base has them."""
    paths = [RepoPath(file.path) for file in manifest.files]
    read = read_by_from_pretrained(paths, components=list(classes))
    return [
        file
        for file in manifest.files
        if file.path in read and weight_name(base(file.path)) is None and file.path != REPORT
    ]


def _is_of(weights: Weights, variant: str) -> bool:
    found = weight_name(base(weights.files[0].path))
    return found is not None and found.variant == variant


def _check_paths(made: Plan, work: Sequence[Work]) -> None:
    """Checks that all files can lie beside each other, before hours are spent on some of them."""
    paths = {*made.taken, *made.rewritten, REPORT}
    for one in work:
        own = [*one.weights.files, *([one.weights.index] if one.weights.index else [])]
        paths.update(f"{one.component}/{one.weights.plain[base(file.path)]}" for file in own)
    check_listing(map(parse_path, sorted(paths)))


def _take_over(made: Plan, name: str, weights: Weights, indexes: Mapping[str, bytes]) -> None:
    for file in weights.files:
        made.taken[f"{name}/{weights.plain[base(file.path)]}"] = file
    if weights.index is None:
        return
    path = f"{name}/{weights.plain[base(weights.index.path)]}"
    made.rewritten[path] = renamed(weights, indexes[weights.index.path])
