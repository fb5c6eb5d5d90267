"""What looks at pictures, a model of the store or the user's own, and what it says of many."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from zhcache.errors import NotFound, UsageError, ZhcacheError
from zhcache.evaluate.pictures import Picture
from zhcache.evaluate.stored import Stored

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 32
Progress = Callable[[int], None]
T = TypeVar("T")


class Extractor(Protocol):
    """What gives features of images, float32 of shape (images, dimensions)."""

    name: str

    def features(self, images: Sequence[Image]) -> torch.Tensor:
        """Returns the features of each image."""
        ...

    def layers(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """Returns feature maps, each of shape (images, positions, channels)."""
        ...


class Own:
    """A user's callable or module: uint8 of shape (n, 3, height, width) to (n, dimensions).

    For the distance between two pictures it gives a list of maps instead, (n, channels, height,
    width) or (n, positions, channels) each. Images of one size come together; nothing is resized.

    Raises:
        UsageError: It is a module in training: each batch would change what it says of the next.
    """

    def __init__(self, call: Callable[..., Any], name: str | None = None) -> None:
        if getattr(call, "training", False):
            raise UsageError(
                "the extractor {name} is in training, so batches change it",
                hint="call its .eval() first",
                name=type(call).__name__,
            )
        self.name: str = name or getattr(call, "__qualname__", type(call).__name__)
        self._call = call

    def features(self, images: Sequence[Image]) -> torch.Tensor:
        """Returns the features of each image."""
        parts = [self._checked(self._asked(same), len(same)) for same in _alike(images)]
        return torch.cat(parts)

    def layers(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """Returns feature maps; the images have one size."""
        found = self._asked(images)
        given: list[Any] = list(found) if isinstance(found, (list, tuple)) else []
        maps = [torch.as_tensor(one) for one in given if hasattr(one, "shape")]
        is_whole = 0 < len(maps) == len(given)
        if not is_whole or any(m.ndim not in (3, 4) or len(m) != len(images) for m in maps):
            raise UsageError(
                "the extractor {name} gave {given}, which are no feature maps",
                hint="the distance of two pictures takes a list of maps, (n, channels, height,"
                " width) or (n, positions, channels) each",
                name=self.name,
                given=[tuple(one.shape) for one in maps] or type(found).__name__,
            )
        flat = [one.flatten(2).transpose(1, 2) if one.ndim == 4 else one for one in maps]
        return [one.detach().float().cpu() for one in flat]

    @torch.inference_mode()
    def _asked(self, images: Sequence[Image]) -> Any:
        batch = torch.stack([_bytes(image) for image in images])
        if isinstance(self._call, torch.nn.Module):
            weight = next(self._call.parameters(), None)
            batch = batch if weight is None else batch.to(weight.device)
        try:
            return self._call(batch)
        except ZhcacheError:
            raise
        # One that exits would end a comparison as if all were well.
        except (Exception, SystemExit) as error:
            raise UsageError(
                "the extractor {name} failed: {kind}: {reason}",
                hint="it is given uint8 of shape (n, 3, height, width), here {shape}",
                name=self.name,
                kind=type(error).__name__,
                reason=error,
                shape=tuple(batch.shape),
            ) from error

    def _checked(self, found: Any, count: int) -> torch.Tensor:
        shape = tuple(getattr(found, "shape", ()))
        if len(shape) != 2 or shape[0] != count:
            raise UsageError(
                "the extractor {name} gave {given} for {count} pictures",
                hint="it is to give (n, dimensions) for n pictures",
                name=self.name,
                given=shape or type(found).__name__,
                count=count,
            )
        return torch.as_tensor(found).detach().float().cpu()


def extractor_of(given: Any, device: str = "auto") -> Extractor:
    """Returns what ``given`` means: ``OWNER/NAME[@REVISION]``, ``FILE.py:NAME``, or a callable.

    Raises:
        UsageError: It means nothing.
        ZhcacheError: The model cannot be had.
    """
    if isinstance(given, (Stored, Own)):
        return given
    if isinstance(given, str):
        if not is_stored(given):
            return Own(_imported(given), given)
        repo, _, revision = given.partition("@")
        return Stored(repo, revision or None, device=device)
    if callable(given):
        return Own(given)
    raise UsageError(
        "{value} is no extractor",
        hint="it takes OWNER/NAME of a model in the store, FILE.py:NAME, or from Python a callable",
        value=repr(given)[:80],
    )


def is_stored(name: str) -> bool:
    """Tells whether an extractor's name is that of a model of the store, not of the user's file."""
    return bool(name) and ".py:" not in name and not name.endswith(".py")


def has_layers(given: Any) -> bool:
    """Tells whether an extractor is known to give feature maps: a user's own gives one or other."""
    return isinstance(given, Stored) or (isinstance(given, str) and is_stored(given))


def features_of(
    pictures: Sequence[Picture], extractor: Extractor, progress: Progress = lambda _: None
) -> torch.Tensor:
    """Returns the features of pictures, read a batch at a time.

    Args:
        pictures: Which.
        extractor: What looks at them.
        progress: Called with the number of pictures of each batch.
    """
    parts: list[torch.Tensor] = []
    for batch in batches(pictures):
        parts.append(extractor.features([picture.read() for picture in batch]))
        progress(len(batch))
    return torch.cat(parts)


def batches(all_of_them: Sequence[T], size: int = BATCH) -> Iterator[Sequence[T]]:
    """Yields pictures or pairs of them in batches."""
    for start in range(0, len(all_of_them), size):
        yield all_of_them[start : start + size]


def _alike(images: Sequence[Image]) -> Iterator[list[Image]]:
    """Yields runs of images of one size, in order."""
    for _, same in groupby(images, key=lambda image: image.size):
        yield list(same)


def _bytes(image: Image) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1)


def _imported(spec: str) -> Callable[..., Any]:
    """Returns what a file of the user's own defines; the file runs, as any script of his."""
    if spec.endswith(".py"):
        raise UsageError(
            "{path} may define much, and one thing of it is the extractor",
            hint="name it: {path}:NAME",
            path=spec,
        )
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise NotFound("there is no file {path}", path=path)
    # It may be called as a module that is imported, and is known as imported ones are: dataclasses
    # and pickle look for it there.
    found = importlib.util.spec_from_file_location(f"zhcache-extractor-{path.stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            "{path} cannot be run: {kind}: {reason}",
            hint="it is to define the extractor: {name}",
            path=path,
            kind=type(error).__name__,
            reason=error,
            name=name,
        ) from error
    call = getattr(module, name, None)
    if not callable(call):
        raise UsageError(
            "{path} defines no callable {name}",
            hint="it takes uint8 (n, 3, height, width) and gives (n, dimensions)",
            path=path,
            name=name,
        )
    return call
