"""The process that puts blobs into a bucket: obstore, in an environment that says nothing.

Proxies and a dozen variables change what obstore sends, and no setting turns them off; so it runs
here. What to put comes as lines of JSON on standard input, the key in the first of them, and each
is answered by a line. Where standard input ends, the upload under way is abandoned.

The bytes are hashed on their way, and the last of them are only sent if they are what the name
says: what was spoilt on this disk does not get into the store of the site.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from zhcached.config import SourceConfig
from zhcached.sources.s3_bucket import Key, store_of

if TYPE_CHECKING:
    from obstore.store import S3Store

NICE: Final = 10
PART_BYTES: Final = 16 * 2**20
PARTS_AT_ONCE: Final = 4
MOST_PARTS: Final = 9_000
"""Of 10,000 that S3 takes."""
_READ_BYTES: Final = 4 * 2**20
_ABANDONED_S: Final = 1.0
_CODE: Final = re.compile(r"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_MOST_TEXT: Final = 300


class Opening(msgspec.Struct, frozen=True):
    """The first line: which bucket, and whose key."""

    config: SourceConfig
    endpoint: str
    access: str
    secret: str


class Wanted(msgspec.Struct, frozen=True):
    """One blob to put: its name there, where it lies, and what it must be."""

    name: str
    file: str
    size: int
    sha256: str


class Told(msgspec.Struct, frozen=True):
    """The answer: nothing, or why it is not there.

    Attributes:
        error: For people.
        is_ours: The blob cannot be sent: it is gone, or its bytes are no longer what they were.
        is_refused: The bucket may not be written to with this key.
    """

    error: str = ""
    is_ours: bool = False
    is_refused: bool = False


class SpoiltError(Exception):
    """The file is not what its name says."""


class AbandonedError(Exception):
    """Nobody wants it any more."""


def main() -> None:
    """Puts what it is told to until standard input ends."""
    give_way()
    threading.Thread(target=_end_when_left, daemon=True).start()
    lines = sys.stdin.buffer
    opening = msgspec.json.decode(lines.readline(), type=Opening)
    key = Key(opening.access, opening.secret)
    store = store_of(opening.config, opening.endpoint, key)
    while line := lines.readline():
        told = put(store, msgspec.json.decode(line, type=Wanted))
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()


def give_way() -> None:
    """Lets all else go first, where that is allowed."""
    # The service's unit forbids it; then the kernel shares out as it likes.
    with contextlib.suppress(PermissionError):
        os.nice(NICE)


def put(store: S3Store, wanted: Wanted) -> Told:
    """Puts one blob and returns how that went."""
    try:
        with Path(wanted.file).open("rb") as file:
            return _send(store, wanted, file)
    except OSError as error:
        return Told(str(error)[:_MOST_TEXT], is_ours=True)


def _send(store: S3Store, wanted: Wanted, file: BinaryIO) -> Told:
    import obstore
    from obstore import exceptions

    pieces = proven(file, wanted)
    try:
        if wanted.size <= PART_BYTES:
            obstore.put(store, wanted.name, b"".join(pieces), use_multipart=False)
        else:
            part = max(PART_BYTES, -(-wanted.size // MOST_PARTS))
            obstore.put(store, wanted.name, pieces, chunk_size=part, max_concurrency=PARTS_AT_ONCE)
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        return Told(_text(error), is_refused=True)
    except SpoiltError as error:
        return Told(str(error)[:_MOST_TEXT], is_ours=True)
    except Exception as error:  # noqa: BLE001 - that there is no bucket comes as a FileNotFoundError
        return Told(_text(error))
    return Told()


def proven(file: BinaryIO, wanted: Wanted) -> Iterator[bytes]:
    """Yields the bytes of a blob, the last of them only if all are what the name says.

    Raises:
        SpoiltError: They are not.
        AbandonedError: Nobody wants them any more.
    """
    digest, size, held = hashlib.sha256(), 0, b""
    while piece := _read(file):
        if _is_left():
            raise AbandonedError("the daemon stops")
        digest.update(piece)
        size += len(piece)
        if held:
            yield held
        held = piece
    if size != wanted.size or digest.hexdigest() != wanted.sha256:
        raise SpoiltError(f"{wanted.file} is no longer what its name says")
    yield held


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(_READ_BYTES)
    except OSError as error:
        raise SpoiltError(str(error)) from error


def _is_left() -> bool:
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    return bool(poll.poll(0))


def _end_when_left() -> None:
    """Ends the process where the daemon is gone and the network holds up the end of an upload."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    poll.poll()
    threading.Event().wait(_ABANDONED_S)
    os._exit(1)


def _text(error: Exception) -> str:
    """Returns the status and the code that S3 gave, else the first line of what obstore says."""
    said = str(error)
    status, code = _STATUS.search(said), _CODE.search(said)
    if status is None:
        return said.partition("\n")[0][:_MOST_TEXT]
    told = f"the store answered {status[1]}"
    return f"{told}: {code[1]}" if code else told


if __name__ == "__main__":
    main()
