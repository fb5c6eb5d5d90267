"""Images on the disk: PNG, sRGB, with what made them written inside; nothing is overwritten."""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from zhcache import __version__
from zhcache.errors import NoSpace, UsageError

SUFFIX = ".png"
_PERCEPTUAL = b"\x00"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Place:
    """Where the images of one command go.

    Args:
        target: A folder, or the file of a single image; None is the working directory.
        name: What files are called in a folder.
        images: How many there will be.

    Raises:
        UsageError: Several images into one file, or a file that is no PNG.
    """

    def __init__(self, target: str | None, name: str, images: int) -> None:
        path = Path(target or ".").expanduser()
        is_folder = path.is_dir() or (target or "").endswith("/") or not path.suffix
        if not is_folder and path.suffix.lower() != SUFFIX:
            raise UsageError(
                "images are written as PNG, not as {suffix}",
                hint="name a folder, or a file that ends in .png",
                suffix=path.suffix,
            )
        if not is_folder and images > 1:
            raise UsageError(
                "{count} images do not go into one file",
                hint="name a folder: --output {folder}/",
                count=images,
                folder=path.stem,
            )
        self._folder = path if is_folder else path.parent
        self._file = None if is_folder else path
        self._name = re.sub(r"[^\w.-]+", "-", name)

    def save(self, image: Any, seed: int, said: Mapping[str, str]) -> Path:
        """Writes a PIL image and returns where it lies.

        Args:
            image: The image.
            seed: Part of its name in a folder.
            said: What is written into it, by key.

        Raises:
            UsageError: The place cannot be written.
            NoSpace: The disk is full.
        """
        content = encoded(image, said)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._file is not None:
                self._file.write_bytes(content)
                return self._file
            return self._written(f"{self._name}-{seed}", content)
        except OSError as error:
            kind = NoSpace if error.errno in _FULL else UsageError
            raise kind(
                "{path} cannot be written: {reason}",
                hint="name another place with --output",
                path=error.filename or self._folder,
                reason=error.strerror or error,
            ) from error

    def _written(self, name: str, content: bytes) -> Path:
        for number in count(1):
            path = self._folder / f"{name}{f'-{number}' if number > 1 else ''}{SUFFIX}"
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                continue
            return path
        raise AssertionError


def encoded(image: Any, said: Mapping[str, str]) -> bytes:
    """Returns a PIL image as PNG.

    Source: PNG (W3C, third edition), sRGB 11.3.2.5, iTXt 11.3.3.4: UTF-8, so that Chinese stays.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add(b"sRGB", _PERCEPTUAL)
    for key, text in {"Software": f"zhcache {__version__}", **said}.items():
        info.add_itxt(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
