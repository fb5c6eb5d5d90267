"""Which folders are watched: those of the configuration, and those that were added by command.

The latter stand in ``watch.json`` in the store's root, which is the truth about them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from zhcache.errors import IntegrityError, NotFound, UsageError, ZhcacheError
from zhcache.protocol.names import printable
from zhcached.store import files

MAX_FOLDERS = 64
MAX_PATH = 4096


class _File(msgspec.Struct):
    folders: list[str]
    format: int = 1


class Listed:
    """The list of watched folders. Not thread-safe.

    Args:
        root: The store's root.
        configured: Folders that the configuration names.

    ``damaged`` says that the list could not be read. It is kept under another name then: a daemon
    that did not start for it would be the greater loss.
    """

    def __init__(self, root: Path, configured: tuple[str, ...]) -> None:
        self._root = root
        self._path = root / "watch.json"
        self.configured = tuple(Path(folder) for folder in configured)
        self.damaged: ZhcacheError | None = None
        self._added = self._read()

    def _read(self) -> list[Path]:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            aside = self._path.with_name("watch.json.damaged")
            self._path.replace(aside)
            self.damaged = IntegrityError(
                "the list of watched folders was damaged ({reason}) and is begun anew",
                hint="the old one is {file}: `zhcache watch add` what it names",
                reason=error,
                file=aside,
            )
            return []
        return [Path(folder) for folder in kept.folders]

    def all(self) -> list[Path]:
        """Returns every watched folder once, the configured first."""
        return list(dict.fromkeys((*self.configured, *self._added)))

    def parse(self, text: str) -> Path:
        """Returns the folder that ``text`` names, if one of that path may be watched.

        Raises:
            UsageError: No absolute path, or in the store, or with the store in it.
        """
        is_plain = text.isprintable() and len(text) <= MAX_PATH
        if not text.startswith("/") or not is_plain or ".." in text.split("/"):
            raise UsageError(
                "{folder} is not an absolute path without '..'", folder=printable(text, 400)
            )
        folder = Path(text)
        # By what they lead to: a link into the store is in the store.
        real, root = folder.resolve(), self._root.resolve()
        if real.is_relative_to(root) or root.is_relative_to(real):
            raise UsageError(
                "{folder} and the store {root} lie in one another",
                hint="watch a folder outside the store, or the folders in it one by one",
                folder=folder,
                root=self._root,
            )
        return folder

    def add(self, folder: Path) -> bool:
        """Adds a folder, durably; tells whether it is new.

        Raises:
            UsageError: There are too many.
        """
        if folder in self.all():
            return False
        if len(self.all()) >= MAX_FOLDERS:
            raise UsageError("more than {limit} folders are not watched", limit=MAX_FOLDERS)
        self._write([*self._added, folder])
        return True

    def remove(self, folder: Path) -> None:
        """Takes a folder off the list, durably.

        Raises:
            NotFound: It is not on it.
            UsageError: It stands in the configuration.
        """
        if folder in self.configured:
            raise UsageError(
                "{folder} stands in the configuration",
                hint="take it out of [watch] folders and restart the daemon",
                folder=folder,
            )
        if folder not in self._added:
            raise NotFound(
                "{folder} is not watched", hint="`zhcache watch ls` lists them", folder=folder
            )
        self._write([one for one in self._added if one != folder])

    def _write(self, folders: list[Path]) -> None:
        content = _File([str(folder) for folder in folders])
        files.write_durably(self._path, msgspec.json.format(msgspec.json.encode(content)))
        self._added = folders
