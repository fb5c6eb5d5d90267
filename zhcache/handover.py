"""The descriptor socket: open files go to the daemon, arenas come from it.

The daemon runs under another account and may not read the caller's folders; a descriptor carries
the caller's own permission for exactly these bytes. Nor may the caller open the daemon's memory: a
descriptor is what the daemon lets it have.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from zhcache.channel import dial, unreachable
from zhcache.errors import Busy, IntegrityError, NotFound, UsageError
from zhcache.paths import handover_path
from zhcache.protocol import frames, messages
from zhcache.protocol.failure import to_error
from zhcache.protocol.names import file_path, parse_repo, parse_revision, repo_of_file
from zhcache.protocol.residency import (
    MAX_SMALL_BYTES,
    MAX_SMALL_FILE,
    MAX_SMALL_FILES,
    Arena,
    Attached,
    AttachRequest,
    Failed,
    FilesRequest,
    Progress,
    SmallFile,
    SmallFiles,
    ToClient,
)

BATCH = 64
"""Descriptors in one message; the kernel takes at most 253. Source: unix(7), SCM_MAX_FD."""

MAX_REPLY = 16 * 2**20
_LENGTH = struct.Struct(">I")
_SILENCE_S = 600.0


def checkpoint(
    file: Path, repo: str | None, like: str | None, revision: str | None
) -> tuple[messages.ImportRequest, Path]:
    """Returns the request to take in a whole model in one file, and the real file.

    Args:
        file: The file, or a symlink to it.
        repo: What it is to be called; ``local/`` and its name if nothing is said.
        like: Whose configurations it gets, if not those of its kind.
        revision: The branch that is to point at it.

    Raises:
        UsageError: A name cannot be meant, or none can be made of the file's.
        NotFound: There is no such file.
    """
    named = repo_of_file(file.name) if repo is None else parse_repo(repo)
    like = None if like is None else str(parse_repo(like))
    revision = None if revision is None else parse_revision(revision)
    try:
        real = file.resolve(strict=True)
        told = messages.ImportFile(path=file_path(file.name), size=real.stat().st_size)
    except OSError as error:
        raise NotFound("there is no file {file}", file=file) from error
    request = messages.ImportRequest(
        repo=str(named), commit=None, revision=revision, files=[told], like=like, op="checkpoint"
    )
    return request, real


def hand_over(
    api_socket: Path, request: messages.ImportRequest, files: Sequence[Path]
) -> messages.Job:
    """Sends ``request`` with a descriptor for each of ``files``; returns the job that takes them.

    Args:
        api_socket: The daemon's API socket, which the descriptor socket stands beside.
        request: Names and sizes, in the order of ``files``.
        files: Real files, symlinks already resolved.

    Raises:
        NotFound: A file is gone.
        UsageError: A file is a symlink, or no regular file.
        DaemonUnreachable: The daemon went away meanwhile.
        ZhcacheError: What the daemon reported.
    """
    path = handover_path(api_socket)
    with dial(path) as line:
        line.settimeout(_SILENCE_S)
        try:
            _send(line, request, files)
        except (BrokenPipeError, ConnectionResetError):
            # It refused in mid-sending; why stands in the answer it left behind.
            pass
        except OSError as error:
            raise unreachable(path, error) from error
        try:
            raw = _receive(line)
        except OSError as error:
            raise unreachable(path, error) from error
    return _job(raw)


def attach(
    api_socket: Path,
    request: AttachRequest,
    on_progress: Callable[[Progress], object] = lambda _: None,
    *,
    until: float | None = None,
) -> list[tuple[Arena, int]]:
    """Returns the arenas of a leased snapshot, each with a descriptor that is the caller's.

    Args:
        api_socket: The daemon's API socket, which the descriptor socket stands beside.
        request: Which lease, on which device.
        on_progress: Told what is waited for: room, another fill, this one.
        until: When ``time.monotonic()`` is there, waiting ends; None waits as long as the daemon
            tells that it is at it.

    Raises:
        Busy: ``until`` is over; a fill that others wait for goes on.
        DaemonUnreachable: The daemon went away meanwhile, or hangs.
        ZhcacheError: What the daemon reported.
    """
    path = handover_path(api_socket)
    with dial(path) as line:
        try:
            frames.send(line, request)
            while True:
                left = _SILENCE_S if until is None else until - time.monotonic()
                line.settimeout(min(_SILENCE_S, max(left, 0.001)))
                event, fds = frames.receive(line, ToClient)
                if isinstance(event, Attached) and len(event.arenas) == len(fds):
                    return list(zip(event.arenas, fds, strict=True))
                frames.close_all(fds)
                if isinstance(event, Failed):
                    raise to_error(event.error)
                if isinstance(event, Progress):
                    on_progress(event)
        except TimeoutError as error:
            if until is None or time.monotonic() < until:
                raise unreachable(path, error) from error
            raise Busy(
                "the weights are not on the device yet",
                hint="load again later, or with a longer timeout",
            ) from error
        except (OSError, EOFError) as error:
            raise unreachable(path, error) from error


def small_files(
    api_socket: Path, lease: str, take: Callable[[SmallFile, int], object]
) -> list[str]:
    """Has ``take`` called with each file of a leased snapshot that holds no weights.

    Args:
        api_socket: The daemon's API socket, which the descriptor socket stands beside.
        lease: Of the snapshot; this user's own.
        take: Given a file and a descriptor to read it by, which is closed afterwards. The path is
            as the daemon named it and nothing to be opened before it was parsed.

    Returns:
        The paths of the files that hold weights.

    Raises:
        IntegrityError: The daemon sent more than was agreed on.
        DaemonUnreachable: The daemon went away meanwhile, or hangs.
        ZhcacheError: What the daemon reported, or ``take`` raised.
    """
    path = handover_path(api_socket)
    taken: list[SmallFile] = []
    with dial(path) as line:
        line.settimeout(_SILENCE_S)
        try:
            frames.send(line, FilesRequest(lease=lease))
            while True:
                event, fds = frames.receive(line, ToClient)
                try:
                    if isinstance(event, Failed):
                        raise to_error(event.error)
                    if isinstance(event, SmallFiles):
                        _check_small(taken, event.files, fds)
                        for file, fd in zip(event.files, fds, strict=True):
                            take(file, fd)
                        if event.is_last:
                            return event.weights
                finally:
                    frames.close_all(fds)
        except (OSError, EOFError) as error:
            raise unreachable(path, error) from error


def _check_small(taken: list[SmallFile], came: Sequence[SmallFile], fds: Sequence[int]) -> None:
    taken += came
    total = sum(file.size for file in taken)
    is_bounded = len(taken) <= MAX_SMALL_FILES and total <= MAX_SMALL_BYTES
    if len(came) != len(fds) or not all(0 <= file.size <= MAX_SMALL_FILE for file in came):
        is_bounded = False
    if not is_bounded:
        raise IntegrityError(
            "the daemon handed over {count} files of {size} bytes and {fds} descriptors, which is"
            " not what it may",
            hint="`zhcache doctor` tells whether daemon and client are of one version",
            count=len(taken),
            size=total,
            fds=len(fds),
        )


def _send(line: socket.socket, request: messages.ImportRequest, files: Sequence[Path]) -> None:
    head = msgspec.json.encode(request)
    line.sendall(_LENGTH.pack(len(head)) + head)
    for start in range(0, len(files), BATCH):
        batch: list[int] = []
        try:
            for file in files[start : start + BATCH]:
                batch.append(_open(file))
            rights = array.array("i", batch)
            line.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            for descriptor in batch:
                os.close(descriptor)


def _open(file: Path) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound("{file} is gone", hint="start the import again", file=file) from error
    except OSError as error:
        raise UsageError(
            "{file} cannot be read: {reason}", file=file, reason=error.strerror or "?"
        ) from error


def _receive(line: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    if length > MAX_REPLY:
        raise ConnectionError(f"an answer of {length} bytes")
    return _exactly(line, length)


def _exactly(line: socket.socket, count: int) -> bytes:
    parts: list[bytes] = []
    while count:
        part = line.recv(min(count, 65536))
        if not part:
            raise ConnectionError("the daemon closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _job(raw: bytes) -> messages.Job:
    try:
        return msgspec.json.decode(raw, type=messages.Job)
    except msgspec.ValidationError:
        raise to_error(msgspec.json.decode(raw, type=messages.ErrorReply).error) from None
