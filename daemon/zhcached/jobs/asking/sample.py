"""A little of one file, as a download would ask for it: do the bytes come, and how fast?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from zhcached.errors import RemoteError, TransportError
from zhcached.fetch.answer import accept
from zhcached.fetch.limits import SlowError
from zhcached.sources.base import RemoteFile
from zhcached.transport.http import Target, Transport
from zhcached.transport.response import Response
from zhcached.transport.wire import QuietError

DATA_S = 3.0
SAMPLE_BYTES = 2**20
_MEASURABLE_BYTES = 256 * 1024
_SLICE_S = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    """What came.

    Attributes:
        place: Origin that sent it, after redirects.
        bytes: That came in the time.
        first_byte: Seconds from asking until the answer began.
        seconds: Of transfer; 0 where too little came to measure a line by.
    """

    place: str
    bytes: int
    first_byte: float
    seconds: float


def worth_sampling(files: Sequence[RemoteFile]) -> RemoteFile | None:
    """Returns a file by which a line is measured: large enough, and no larger than needed. Pure.

    Large files may come from another host than small ones, and they are what a line is for.
    """
    known = [file for file in files if file.size > 0]
    large = [file for file in known if file.size >= SAMPLE_BYTES]
    if large:
        return min(large, key=lambda file: (file.size, file.path))
    return max(known, key=lambda file: (file.size, file.path), default=None)


def sample(transport: Transport, target: Target, file: RemoteFile) -> Sample:
    """Asks for the beginning of ``file`` and reads it for ``DATA_S`` at most.

    Raises:
        RemoteError: It does not come; ``place`` is the origin that is to blame, if it is known.
    """
    size = min(file.size, SAMPLE_BYTES)
    began = time.monotonic()
    place = ""
    try:
        with transport.open(
            target,
            headers={"Range": f"bytes=0-{size - 1}"},
            read_timeout_s=_SLICE_S,
            head_timeout_s=DATA_S,
        ) as response:
            place = str(response.origin)
            if response.status >= 400:
                raise transport.status_error(response)
            accept(
                0,
                size,
                size=file.size,
                status=response.status,
                headers=response.headers,
                url=response.url,
            )
            answered = time.monotonic()
            came = _read(response, size, began + DATA_S)
            seconds = max(time.monotonic() - answered, 1e-3)
    except RemoteError as error:
        error.place = error.place or place
        raise
    measures = came >= _MEASURABLE_BYTES or came < size
    return Sample(place, came, answered - began, seconds if measures else 0.0)


def _read(response: Response, size: int, until: float) -> int:
    buffer = memoryview(bytearray(64 * 2**10))
    came = 0
    while came < size and time.monotonic() < until:
        try:
            count = response.readinto(buffer[: size - came])
        except QuietError:
            continue
        if count == 0:
            raise TransportError(f"the body ended {size - came} bytes early")
        came += count
    if not came:
        raise SlowError(f"nothing came for {DATA_S:g} s")
    return came
