"""What a variant would be made of, told from a listing before anything is fetched. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from zhcache.errors import IntegrityError
from zhcache.protocol.messages import PlannedVariant
from zhcached.convert import recipe as recipes
from zhcached.convert.plan import Work
from zhcached.convert.recipe import Recipe
from zhcached.convert.weights import Weights, base, choose, variants
from zhcached.sources.pipeline_files import weight_name
from zhcached.store.snapshots import ManifestFile


def forecast(sizes: Mapping[str, int], recipe: Recipe) -> PlannedVariant:
    """Returns what the variant would be made of, and an estimate of the bytes it would add.

    Args:
        sizes: Of the files that would be here, by path.
        recipe: The variant's.

    Raises:
        UsageError: The recipe is for other components.
    """
    folders: dict[str, list[ManifestFile]] = defaultdict(list)
    for path, size in sizes.items():
        folder, slash, name = path.rpartition("/")
        if slash and "/" not in folder and weight_name(name):
            folders[folder].append(ManifestFile(path, size, ""))
    chosen: dict[str, tuple[str, Weights]] = {}
    for folder, files in folders.items():
        if found := _chosen(files, recipe):
            chosen[folder] = found
    parts = recipes.parts(recipe, {name: (library, "") for name, (library, _) in chosen.items()})
    added, is_made, sources = 0, False, list[str]()
    for name, (library, weights) in chosen.items():
        sources += [file.path for file in weights.files]
        found = weight_name(base(weights.files[0].path))
        if found and found.variant == recipe.name:
            continue
        is_made = True
        added += Work(name, library, "", parts[name], weights).estimate
    return PlannedVariant(
        state="made" if is_made else "published", bytes=added, sources=sorted(sources)
    )


def _chosen(files: list[ManifestFile], recipe: Recipe) -> tuple[str, Weights] | None:
    """Returns the weights of a component and the library that their names speak of."""
    named = {found.stem for file in files if (found := weight_name(base(file.path)))}
    library = "diffusers" if "diffusion_pytorch_model" in named else "transformers"
    wanted: list[str | None] = [recipe.name] if recipe.name in recipes.PUBLISHED else []
    for variant in (*wanted, None, *variants(files)):
        try:
            if (found := choose(files, library, variant)) is not None:
                return library, found
        except IntegrityError:
            # Told where it is made; a plan has its other answers to give.
            return None
    return None
