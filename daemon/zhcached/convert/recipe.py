"""Recipes: which component of a pipeline becomes what. Pure.

A recipe has a name, one part for every component with weights, and others for those it names. From
it, the inputs and the tools follow a variant's bytes, and from their digest its commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.conversion import Part, SchemeName
from zhcached.config import PartConfig, RecipeConfig

PUBLISHED = ("fp16", "bf16")
"""Variants that hubs publish under these names: their files are used where they are there."""

PACKAGES = {"fp8": "torchao", "int8": "torchao", "int4": "sdnq"}
"""What makes each quantized scheme, in the workers' environment."""

QUANTIZED = frozenset(PACKAGES)
FORMAT = 1
"""Changes when the same recipe begins to give other bytes."""

_DENOISERS = ("unet*", "transformer*", "prior")
_WIDE = Part(scheme="bf16")


class Recipe(msgspec.Struct, frozen=True):
    """What each component becomes.

    Attributes:
        name: The variant's name.
        default: For components that are not named.
        components: By pattern of the component's name; the first that fits.
        denoisers: For the denoisers among those that are not named.
    """

    name: str
    default: Part
    components: dict[str, Part] = {}
    denoisers: Part | None = None


def _quantized(scheme: SchemeName) -> Recipe:
    return Recipe(scheme, _WIDE, denoisers=Part(scheme=scheme))


BUILT_IN: Mapping[str, Recipe] = {
    "fp16": Recipe("fp16", Part(scheme="fp16")),
    "bf16": Recipe("bf16", _WIDE),
    "fp8": _quantized("fp8"),
    "int8": _quantized("int8"),
    "int4": _quantized("int4"),
}


def of_name(name: str, recipes: Mapping[str, RecipeConfig]) -> Recipe:
    """Returns the recipe of that name: a built-in one, or one of the configuration's.

    Raises:
        UsageError: There is none; the hint names those there are. Or it asks for gguf.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name not in recipes and name.startswith("gguf"):
        # Tried: diffusers 0.42 reads it by from_single_file alone, and docs/decisions/0020.
        raise UsageError(
            "{name} is not made: stock from_pretrained reads no folder that holds gguf",
            hint="take int8 or int4, which it reads",
            name=name[:64],
        )
    if name not in recipes:
        raise UsageError(
            "there is no recipe for a variant {name}",
            hint="there are {known}; [recipe.{name}] in the configuration makes one",
            name=name[:64],
            known=", ".join([*BUILT_IN, *recipes]),
        )
    config = recipes[name]
    return Recipe(
        name,
        _part(config.default),
        {pattern: _part(part) for pattern, part in config.components.items()},
    )


def parts(recipe: Recipe, components: Mapping[str, tuple[str, str]]) -> dict[str, Part]:
    """Returns what each component becomes.

    Args:
        recipe: The recipe.
        components: Those that have weights: name -> (library, class).

    Raises:
        UsageError: None of the components that the recipe names is among them, or one cannot
            become what it is to.
    """
    found: dict[str, Part] = {}
    has_meant = not recipe.components and recipe.denoisers is None
    for name, (library, _) in components.items():
        named = next((p for glob, p in recipe.components.items() if fnmatchcase(name, glob)), None)
        if named is None and library == "diffusers" and _fits(name, _DENOISERS):
            named = recipe.denoisers
        has_meant |= named is not None
        found[name] = named or recipe.default
        if found[name].scheme == "int4" and library != "diffusers":
            raise UsageError(
                "{component} cannot become {scheme}: stock transformers reads no such weights",
                hint="give it int8, fp8 or bf16 in [recipe.{name}]",
                component=name,
                scheme="int4",
                name=recipe.name,
            )
    if not has_meant:
        raise UsageError(
            "the recipe {name} is for {meant}, and the pipeline's components are {components}",
            hint="take another variant, or write a [recipe.NAME] for this pipeline",
            name=recipe.name,
            meant=", ".join(recipe.components or _DENOISERS),
            components=", ".join(components) or "-",
        )
    return found


def published(names: Iterable[str]) -> set[str | None]:
    """Returns the published precisions that these variants are made of; None is the plain one."""
    return {name if name in PUBLISHED else None for name in names} or {None}


def digest(name: str, parts: Mapping[str, Part], inputs: Mapping[str, str]) -> str:
    """Returns the sha256, in hex, of what a variant is and of what it is made.

    Args:
        name: The variant's.
        parts: What each component becomes.
        inputs: The sha256 of each file that is read or taken over, by path.
    """
    return _hash({"format": FORMAT, "name": name, "parts": parts, "inputs": inputs})


def commit(of: str, recipe: str, tools: Mapping[str, str]) -> str:
    """Returns the 40 hex digits by which a variant is a snapshot.

    Args:
        of: The commit it is made of. Two with the same files are two sources: whoever holds the
            variant of one is not to be in the way of the other's.
        recipe: Its ``digest``.
        tools: Versions of what decides the bytes besides.
    """
    return _hash({"of": of, "recipe": recipe, "tools": tools})[:40]


def is_quantized(parts: Collection[Part]) -> bool:
    """Tells whether any of the components is quantized."""
    return any(part.scheme in QUANTIZED for part in parts)


def tools(parts: Collection[Part], found: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the versions on which the bytes depend: casts give the same with any.

    Args:
        parts: What the components become.
        found: Versions of what is in the workers' environment, None where it is not.

    Raises:
        UsageError: A package is needed that is not there.
    """
    needed = {PACKAGES[part.scheme]: part.scheme for part in parts if part.scheme in PACKAGES}
    for package, scheme in needed.items():
        if not found.get(package):
            raise UsageError(
                "{scheme} is made with {package}, which the environment of the workers lacks",
                hint="pip install 'zhcache[quant]' there",
                scheme=scheme,
                package=package,
            )
    names = ("torch", *sorted(needed)) if needed else ()
    return {name: version for name in names if (version := found.get(name))}


def _part(config: str | PartConfig) -> Part:
    if isinstance(config, str):
        return msgspec.convert({"scheme": config}, Part)
    return Part(scheme=config.scheme, group_size=config.group_size, keep=list(config.keep))


def _fits(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _hash(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()
