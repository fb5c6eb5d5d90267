"""Pictures from folders, files and lists, read alike, with what made them where a file says it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from zhcache.errors import NotFound, NotPermitted, UsageError, ZhcacheError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
MAX_PROMPTS_BYTES = 64 * 2**20
_MAKER = "zhcache"
_TAKEN = (
    "it takes a folder, a file, a PIL image, a uint8 tensor (pictures, 3, height, width), or a list"
)
_WIDE = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_BOUNDLESS = frozenset({"I", "F"})


@dataclass(frozen=True)
class Picture:
    """One picture; its pixels are read each time they are asked for.

    Attributes:
        name: Its path below its folder without the suffix; its number in a list of images.
        path: Its file; None for an image at hand.
        prompt: What it was made of, where the file says so.
        seed: The same.
        held: The image at hand.
    """

    name: str
    path: Path | None = None
    prompt: str | None = None
    seed: int | None = None
    held: Image | None = field(default=None, repr=False, compare=False)

    @property
    def shown(self) -> str:
        """How an error names it."""
        return str(self.path or self.name)

    def read(self) -> Image:
        """Returns it in RGB with 8 bits, upright; what is transparent in it is taken as it is.

        Raises:
            UsageError: It is no picture, or cut, or nothing says which of its numbers is white.
            NotPermitted: It is closed to the caller.
        """
        from PIL import Image, ImageOps

        if self.held is not None:
            return _rgb(self.held, self.shown)
        try:
            with Image.open(self.path or "") as opened:
                upright = ImageOps.exif_transpose(opened)
                upright.format = opened.format
                return _rgb(upright, self.shown)
        except ZhcacheError:
            raise
        # Pillow raises whatever its decoders do.
        except Exception as error:
            raise _unreadable(self.path, error) from error


class _Made(msgspec.Struct):
    """What ``zhcache run --json`` says of a picture."""

    path: str
    prompt: str


def pictures_of(given: Any) -> list[Picture]:
    """Returns the pictures of a folder, of files, or images at hand.

    A folder's are those below it, by path; hidden files are left out, and links to folders are not
    followed.

    Raises:
        NotFound: There is no such folder or file.
        UsageError: There are none, or one is no picture.
        NotPermitted: A folder or file is closed to the caller.
    """
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        return _folder(path) if is_folder(path) else [_file(path, path.stem)]
    found = [_one(each, str(number)) for number, each in enumerate(_several(given))]
    if not found:
        raise UsageError("there are no pictures", hint=_TAKEN)
    return found


def is_folder(path: Path) -> bool:
    """Tells whether there is such a folder; where that cannot be seen, opening it says why."""
    # Path.is_dir raises where the way there is closed.
    return os.path.isdir(path)  # noqa: PTH112


def read_prompts(path: Path) -> dict[str, str]:
    """Returns the prompt of each picture's name, from a file in JSON.

    It is ``{"NAME": "PROMPT"}``, with or without the pictures' suffix, or what ``zhcache run
    --json`` printed.

    Raises:
        NotFound: There is no such file.
        NotPermitted: It is closed to the caller.
        UsageError: It is something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_PROMPTS_BYTES).decode("utf-8-sig")
        found = dict(_prompts(_json(text)))
        for prompt in found.values():
            # JSON can spell half a character, which no tokenizer reads.
            prompt.encode()
    except FileNotFoundError as error:
        raise NotFound("there is no file {path}", path=path) from error
    except PermissionError as error:
        raise _closed(path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            "{path} does not say the prompts of pictures: {reason}",
            hint='it takes {{"NAME": "PROMPT"}}, or what `zhcache run --json` printed',
            path=path,
            reason=error,
        ) from error
    return found


def _folder(folder: Path) -> list[Picture]:
    paths = sorted(_below(folder))
    if not paths:
        raise UsageError(
            "there are no pictures in {folder}",
            hint="pictures end in {suffixes}",
            folder=folder,
            suffixes=", ".join(sorted(SUFFIXES)),
        )
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    return [_file(path, name) for path, name in zip(paths, names, strict=True)]


def _below(folder: Path) -> Iterator[Path]:
    # Path.rglob leaves out without a word what it may not read.
    for where, inner, names in os.walk(folder, onerror=_unwalkable):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for path in (Path(where, name) for name in names if not name.startswith(".")):
            # A link to nothing is a picture that is missing.
            if path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink()):
                yield path


def _unwalkable(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise _closed(error.filename) from error
    raise UsageError(
        "{folder} cannot be read: {reason}", folder=error.filename, reason=error.strerror
    ) from error


def _file(path: Path, name: str) -> Picture:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            said = dict(opened.info)
    except FileNotFoundError as error:
        raise NotFound("there is no picture or folder {path}", path=path) from error
    except Exception as error:
        raise _unreadable(path, error) from error
    # Others write prompts too, some a whole graph; only ours is known to be one.
    if not str(said.get("Software", "")).startswith(_MAKER):
        return Picture(name, path)
    prompt, seed = said.get("prompt"), None
    with contextlib.suppress(ValueError):
        seed = int(str(said.get("seed")))
    return Picture(name, path, None if prompt is None else str(prompt), seed)


def _rgb(image: Image, shown: str) -> Image:
    if image.mode in _WIDE or (image.mode == "I" and image.format == "PNG"):
        # Pillow would make white of all but the darkest; of 16 bits in colour it takes the upper
        # eight as well.
        image = image.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    if image.mode in _BOUNDLESS:
        raise UsageError(
            "{picture} has pixels of the mode {mode}, and nothing says which number is white",
            hint="save it with 8 or 16 bits a channel",
            picture=shown,
            mode=image.mode,
        )
    return image.convert("RGB")


def _several(given: Any) -> Sequence[Any]:
    if isinstance(given, (list, tuple)):
        return given
    return list(given) if getattr(given, "ndim", 0) == 4 else [given]


def _one(given: Any, number: str) -> Picture:
    from PIL import Image

    if isinstance(given, Picture):
        return given
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        return _file(path, path.stem)
    if isinstance(given, Image.Image):
        return Picture(number, held=given)
    shape = tuple(getattr(given, "shape", ()))
    if len(shape) == 3 and shape[0] == 3 and str(given.dtype).endswith("uint8"):
        import torch

        rows = torch.as_tensor(given).permute(1, 2, 0).contiguous().cpu().numpy()
        return Picture(number, held=Image.fromarray(rows))
    raise UsageError(
        "{kind} is no picture: {value}",
        hint=_TAKEN,
        kind=type(given).__name__,
        value=shape or repr(given)[:80],
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # A run that met an error prints that first.
        return json.loads(text.strip().rpartition("\n")[2])


def _prompts(said: Any) -> Iterable[tuple[str, str]]:
    # A picture may be called so, too.
    if isinstance(said, Mapping) and isinstance(said.get("images"), list):
        for image in msgspec.convert(said["images"], list[_Made]):
            yield Path(image.path).stem, image.prompt
        return
    for name, prompt in msgspec.convert(said, dict[str, str]).items():
        path = Path(name)
        yield (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix(), prompt


def _closed(path: Path | str) -> NotPermitted:
    return NotPermitted(
        "{path} is closed to you", hint="ask its owner to let you read it", path=path
    )


def _unreadable(path: Path | None, error: Exception) -> UsageError | NotPermitted:
    if isinstance(error, PermissionError) and path is not None:
        return _closed(path)
    return UsageError(
        "{path} cannot be read as a picture: {reason}",
        hint="make it again, or take it out",
        path=path,
        reason=str(error) or type(error).__name__,
    )
