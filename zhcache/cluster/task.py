"""What is asked of a node, and what it answers. They go over Ray as plain dictionaries.

A task is one image. It names its model by commit and has a seed of its own, so that the image is
the same wherever it is made and however often it is tried.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zhcache.errors import UsageError


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
        try:
            msgspec.json.encode(value)
        except (TypeError, msgspec.MsgspecError, RecursionError) as error:
            raise UsageError(
                "{name} is neither words nor numbers, and cannot go to another machine",
                hint="use zhcache.load_pipeline for calls that start from a picture",
                name=name,
            ) from error
    return arguments
