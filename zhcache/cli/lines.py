"""Texts in and out, a line each: files, stdin, stdout. A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import click

from zhcache.errors import NoSpace, NotFound, NotPermitted, UsageError, ZhcacheError

STDIN = STDOUT = "-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOST_LINKS = 40


def lines_of(source: str) -> Iterator[str]:
    """Yields the lines of a file in UTF-8 without their ends; ``-`` is stdin.

    Raises:
        NotFound: There is no such file.
        UsageError: It cannot be read, or is not UTF-8.
    """
    path = Path(source).expanduser()
    if source == STDIN and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise UsageError("stdin is closed", hint="name a file with --input")
    try:
        # By its descriptor: what a terminal or a locale does to stdin's text is not wanted.
        which = sys.stdin.fileno() if source == STDIN else path
        with open(which, encoding="utf-8-sig", closefd=source != STDIN) as file:
            for line in file:
                yield line.removesuffix("\n")
    except FileNotFoundError as error:
        raise NotFound("there is no file {path}", path=path) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "{path} is not text in UTF-8", hint="iconv -f GB18030 -t UTF-8 converts it", path=source
        ) from error
    except OSError as error:
        raise UsageError(
            "{path} cannot be read: {reason}", path=path, reason=error.strerror or error
        ) from error


class Lines:
    """Where lines go: stdout, or a file that takes its name when all of them are in it.

    Args:
        target: The file; None and ``-`` are stdout.

    Raises:
        NotPermitted: It is a link that somebody else laid in a folder where everybody may.
    """

    def __init__(self, target: str | None) -> None:
        self.path = None if target in (None, STDOUT) else _behind_links(Path(target).expanduser())
        self._beside: Path | None = None
        self._file: IO[str] | None = None

    def __enter__(self) -> Lines:
        """Opens the file beside its place.

        Raises:
            UsageError: It cannot be written there.
            NoSpace: The disk is full.
        """
        if self.path is None:
            return self
        try:
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if self.path.exists() and not self.path.is_file():
                # A pipe or a device has no name to give.
                self._file = self.path.open("w", encoding="utf-8")
            else:
                name = f".{self.path.name}.{secrets.token_hex(4)}"
                self._beside = self.path.with_name(name)
                self._file = self._beside.open("x", encoding="utf-8")
                if self.path.exists():
                    # At once: nobody is to read meanwhile what they may not read afterwards.
                    shutil.copymode(self.path, self._beside)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def write(self, line: str) -> None:
        """Writes one line.

        Raises:
            UsageError: It cannot be written.
            NoSpace: The disk is full.
        """
        try:
            if self._file is None:
                click.echo(line)
            else:
                self._file.write(f"{line}\n")
        except BrokenPipeError:
            # The reader has enough, which is no failure.
            raise
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Gives the file its name; after an error there is none, and what was there stays."""
        if self._file is None or self.path is None:
            return
        try:
            with self._file:
                if kind is None and self._beside is not None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if kind is None and self._beside is not None:
                self._beside.replace(self.path)
                self._beside = None
        except OSError as failure:
            if kind is None:
                raise self._failed(failure) from failure
        finally:
            if self._beside is not None:
                with suppress(OSError):
                    self._beside.unlink()

    def _failed(self, error: OSError) -> ZhcacheError:
        kind = NoSpace if error.errno in _FULL else UsageError
        return kind(
            "{path} cannot be written: {reason}",
            hint="name another place with --output",
            path=self.path or "stdout",
            reason=error.strerror or error,
        )


def _behind_links(path: Path) -> Path:
    """Returns the file that is to be written: what a link points to is replaced, not the link.

    Source of the rule: the kernel's ``fs.protected_symlinks``, which does not see links that are
    resolved by their text.
    """
    # What cannot be looked at cannot be opened either, which then says why.
    with suppress(OSError):
        for _ in range(_MOST_LINKS):
            if not path.is_symlink():
                break
            if _is_planted(path):
                raise NotPermitted(
                    "{path} is a link that another user laid",
                    hint="name another place with --output",
                    path=path,
                )
            path = path.parent / path.readlink()
    return path.resolve()


def _is_planted(link: Path) -> bool:
    folder = link.parent.stat()
    is_everybodys = bool(folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH)
    return is_everybodys and link.lstat().st_uid not in (os.geteuid(), folder.st_uid)
