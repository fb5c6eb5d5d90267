"""What is asked of a node, and what it answers. They go over Ray as plain dictionaries.

A task is one image. It names its model by commit and has a seed of its own, so that the image is
the same wherever it is made and however often it is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, SupportsIndex, cast

import msgspec

from zhcache.errors import UsageError
from zhcache.resident import asking


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as ``load_pipeline(mode="resident")`` takes it, but for its device."""

    repo: str
    revision: str | None = None
    variant: str | None = None
    chinese: str | None = "auto"

    @property
    def key(self) -> str:
        """What routers, homes and queues know it by: as ``ps`` tells of what is warm."""
        return key_of(self.repo, self.variant)


def key_of(repo: str, variant: str | None) -> str:
    """Returns the key of a model."""
    return f"{repo}@{variant}" if variant else repo


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One image. ``arguments`` are further ones of the pipeline's call, words and numbers alone."""

    model: Model
    prompt: str
    seed: int
    arguments: dict[str, Any] = {}


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """An image as it travels, and of whom it is.

    Attributes:
        mode: PIL's.
        size: Width and height.
        pixels: As ``PIL.Image.Image.tobytes`` gives them.
        commit: Of the snapshot that made it.
        node: Name of the machine.
        seconds: What the call took there, waiting left out.
        nsfw: Whether the pipeline's safety checker made it black.
    """

    mode: str
    size: tuple[int, int]
    pixels: bytes
    commit: str
    node: str = ""
    seconds: float = 0.0
    nsfw: bool = False

    def image(self) -> Any:
        """Returns it as a PIL image."""
        from PIL import Image

        return Image.frombytes(self.mode, self.size, self.pixels)


def all_of(
    repo: str | Sequence[str],
    prompts: Sequence[str],
    seeds: int | Sequence[int],
    model: Model,
    arguments: dict[str, Any],
) -> list[Task]:
    """Returns a batch's tasks, as ``generate`` takes them.

    Raises:
        UsageError: They cannot be meant.
    """
    if isinstance(prompts, str):
        raise UsageError("prompts is one text", hint="give a list: prompts=[...]")
    texts = list(prompts)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(
                "prompt {place} is no text: {value}",
                hint="give a list of texts",
                place=place,
                value=repr(text)[:80],
            )
    repos = [repo] * len(texts) if isinstance(repo, str) else list(repo)
    numbers = _seeds(seeds, len(texts))
    for name, given in (("repo", repos), ("seeds", numbers)):
        if len(given) != len(texts):
            raise UsageError(
                "{name} has {count} entries for {prompts} prompts",
                hint="give one, or one for each prompt",
                name=name,
                count=len(given),
                prompts=len(texts),
            )
    return [
        Task(
            model=msgspec.structs.replace(model, repo=str(r)),
            prompt=str(p),
            seed=s,
            arguments=arguments,
        )
        for r, p, s in zip(repos, texts, numbers, strict=True)
    ]


def _seeds(seeds: int | Sequence[int], count: int) -> list[int]:
    """Returns them as a list of plain numbers: those of arrays are none of JSON's."""
    given: list[Any] = [seeds]
    if isinstance(seeds, Iterable):
        given = list(seeds)
    elif isinstance(seeds, SupportsIndex):
        given = [index(seeds) + place for place in range(count)]
    return cast("list[int]", asking.seeds(given))


def plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call, checked to be words, numbers and lists of them.

    Raises:
        UsageError: One cannot travel, or means several images.
    """
    for name in ("prompt", "seed", "generator", "num_images_per_prompt", "output_type"):
        if name in arguments:
            raise UsageError(
                "{name} cannot be given to a batch: each prompt is one image with its own seed",
                hint="give the prompt several times; seeds= takes one for each",
                name=name,
            )
    for name, value in arguments.items():
        if not _is_plain(value):
            raise UsageError(
                "{name} is neither words nor numbers, and cannot go to another machine",
                hint="use zhcache.load_pipeline for calls that start from a picture",
                name=name,
            )
    return arguments


def _is_plain(value: object) -> bool:
    """Whether it is JSON's own. What else can be written as JSON (bytes, dates) comes out other."""
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value).items()
        return all(isinstance(key, str) and _is_plain(one) for key, one in pairs)
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in cast("list[object]", value))
    return value is None or isinstance(value, str | int | float)
