"""What a conversion has done so far, durably: one killed half-way goes on with the rest."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import msgspec
import structlog

from zhcached.convert.runner import Converted
from zhcached.store import files

_decoder = msgspec.json.Decoder(dict[str, Converted])
_encoder = msgspec.json.Encoder()

log = structlog.get_logger()


class Unfinished:
    """The components of one variant that are done. Thread-safe.

    Args:
        path: Where that is written down.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._done = self._read()

    @property
    def done(self) -> dict[str, Converted]:
        """What each component has become; its blobs may be gone."""
        with self._lock:
            return dict(self._done)

    def add(self, component: str, converted: Converted) -> None:
        """Remembers a component.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with self._lock:
            self._done[component] = converted
            files.write_durably(self._path, _encoder.encode(self._done))

    def forget(self) -> None:
        """Lets go of the record."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Converted]:
        try:
            return _decoder.decode(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # Only time is lost: what it told of is made again.
            log.warning("convert.record_unreadable", path=str(self._path), error=str(error))
            return {}


def sweep(folder: Path, before: float) -> None:
    """Deletes the records that nobody has touched since a wall-clock time."""
    for path in folder.iterdir():
        # Another conversion may be over meanwhile, and its record gone.
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_mtime < before:
                path.unlink()
