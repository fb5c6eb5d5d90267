"""Images on the disk: PNG, sRGB, with what made them written inside; nothing is overwritten."""

from __future__ import annotations

import errno
import io
import re
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from zhcache import __version__
from zhcache.errors import NoSpace, UsageError

SUFFIX = ".png"
STDOUT = "-"
_PERCEPTUAL = b"\x00"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Place:
    """Where the images of one command go.

    Args:
        target: A folder, or the file of a single image; ``-`` is stdout, None the working
            directory.
        name: What files are called in a folder.
        images: How many there will be.

    Raises:
        UsageError: Several images into one file, a file that is no PNG, or a terminal for one.
    """

    def __init__(self, target: str | None, name: str, images: int) -> None:
        self.is_stdout = target == STDOUT
        if self.is_stdout and sys.stdout.isatty():
            raise UsageError(
                "stdout is a terminal, and a PNG is not text",
                hint="pipe it on, or name a file: --output {name}.png",
                name=name,
            )
        path = Path(target or ".").expanduser()
        is_folder = path.is_dir() or (target or "").endswith("/") or not path.suffix
        is_folder = is_folder and not self.is_stdout
        if not (is_folder or self.is_stdout) and path.suffix.lower() != SUFFIX:
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
                folder=name if self.is_stdout else path.stem,
            )
        self._folder = path if is_folder else path.parent
        self._file = None if is_folder else path
        self._name = re.sub(r"[^\w.-]+", "-", name)

    def save(self, image: Any, seed: int, said: Mapping[str, str]) -> Path:
        """Writes a PIL image and returns where it lies; ``-`` where that is stdout.

        Args:
            image: The image.
            seed: Part of its name in a folder.
            said: What is written into it, by key.

        Raises:
            UsageError: The place cannot be written.
            NoSpace: The disk is full.
            BrokenPipeError: Whoever read stdout is gone.
        """
        content = encoded(image, said)
        try:
            if self.is_stdout:
                sys.stdout.buffer.write(content)
                sys.stdout.buffer.flush()
                return Path(STDOUT)
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._file is not None:
                self._file.write_bytes(content)
                return self._file
            return self._written(f"{self._name}-{seed}", content)
        except BrokenPipeError:
            raise
        except OSError as error:
            kind = NoSpace if error.errno in _FULL else UsageError
            raise kind(
                "{path} cannot be written: {reason}",
                hint="name another place with --output",
                path=error.filename or ("stdout" if self.is_stdout else self._folder),
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
