"""What client and keeper say to each other, over ``zhcache.protocol.frames``.

Bytes that come from the user (arguments, the environment) are bytes here: not all of them are
text. Both sides are of one version: the version is part of a server's key.
"""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.messages import ErrorInfo, Message

Kind = Literal["file", "module", "command"]


class Word(Message, tag_field="event", tag=str.lower):
    """Base of all frames; told apart by the field ``event``."""


class Run(Word):
    """Client to keeper, first: run this. Beside it the working folder, then one for each ``fds``.

    Args:
        kind: What ``target`` is; a file, ``python -m`` or ``python -c``.
        target: The script as it was typed, a module's name, or code.
        argv: What comes after it.
        environ: The whole environment, in its order.
        imports: Names that have another value, or None for no value, once the script imports.
        fds: Numbers of the descriptors that the script inherits.
        umask: Of the client.
        limits: Soft and hard limit of each resource.
        ignored: Signals that are ignored.
        blocked: Signals that are blocked.
    """

    kind: Kind
    target: bytes
    argv: list[bytes]
    environ: list[tuple[bytes, bytes]]
    imports: dict[str, str | None]
    fds: list[int]
    umask: int
    limits: dict[int, tuple[int, int]]
    ignored: list[int]
    blocked: list[int]


class Pass(Word):
    """Client to keeper: this signal came. ``to_group``: from the terminal, so to all it stops."""

    signal: int
    to_group: bool


class Differs(Word):
    """Instead of ``Started``: these variables were read while importing, with other values."""

    names: list[str]


class Failed(Word):
    """Instead of ``Started``: the process cannot be made what the client is."""

    error: ErrorInfo


class Started(Word):
    """The script's process is there; signals are passed on from now on."""

    pid: int


class Stopped(Word):
    """The script was stopped by this signal, after ``continued`` SIGCONT had been passed on."""

    signal: int
    continued: int


class Ended(Word):
    """The script ended: with an exit code, or by a signal."""

    code: int = 0
    signal: int = 0


FromClient = Run | Pass
FromKeeper = Differs | Failed | Started | Stopped | Ended
