"""Putting blobs into a bucket, seen from the daemon: a process that does it, and how it is asked.

The key goes there by a pipe: neither the process's arguments nor its environment have it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from zhcached.errors import KeyRefused, TransportError
from zhcached.sources.s3_bucket import Bucket
from zhcached.sources.s3_upload import Opening, Told, Wanted

ENDING_S: Final = 5.0
_NAMES: Final = frozenset(
    {"PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV"}
)
_MODULE: Final = "zhcached.sources.s3_upload"


class SpoiltHereError(Exception):
    """The blob cannot be put: it is gone, or is no longer what its name says."""


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns what of ``environ`` the process may know: where programs and certificates are."""
    return {name: value for name, value in environ.items() if name in _NAMES}


class Uploads:
    """One bucket's uploads, one after the other. ``put`` is called from one thread at a time.

    Args:
        bucket: Where to.
        environ: Of the daemon.

    Raises:
        KeyRefused: The key is not there.
        TransportError: The process does not start.
    """

    def __init__(self, bucket: Bucket, environ: Mapping[str, str]) -> None:
        self._bucket = bucket
        key = bucket.key()
        if key is None:
            raise KeyRefused("no key is configured", source=bucket.config.name)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(environ),
                # Ctrl-C in a terminal is the daemon's to obey.
                start_new_session=True,
            )
        except OSError as error:
            raise TransportError(f"nothing can be put: {error}") from error
        self._ending = threading.Lock()
        self._ask(Opening(bucket.config, bucket.endpoint, key.access, key.secret))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put(self, sha256: str, file: Path, size: int) -> None:
        """Puts a blob; it is there whole, or not at all.

        Raises:
            SpoiltHereError: It is gone, or its bytes are no longer what they were.
            KeyRefused: The key may not write there.
            TransportError: Anything else; or the process was ended.
        """
        name = self._bucket.path(sha256)
        self._ask(Wanted(name=name, file=str(file), size=size, sha256=sha256))
        assert self._process.stdout is not None
        try:
            told = msgspec.json.decode(self._process.stdout.readline(), type=Told)
        except (msgspec.DecodeError, ValueError):
            raise TransportError("the process that puts blobs has ended") from None
        if told.is_ours:
            raise SpoiltHereError(told.error)
        if told.is_refused:
            raise KeyRefused(told.error, source=self._bucket.config.name)
        if told.error:
            raise TransportError(told.error, source=self._bucket.config.name)

    def close(self) -> None:
        """Ends the process; an upload under way is abandoned. May be called from any thread."""
        with self._ending:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            try:
                self._process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _ask(self, message: Opening | Wanted) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise TransportError("the process that puts blobs has ended") from None
