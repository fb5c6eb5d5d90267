"""What can go wrong between the daemon and the world, in two families and one for the disk.

Foreign exceptions stop at the module that borders on their library and become one of these. They
are turned into what a user reads (``zhcache.errors``) by the job that knows what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from zhcache.errors import IntegrityError, ZhcacheError
from zhcache.i18n import mark


class RemoteError(Exception):
    """Base of everything a source can do wrong.

    ``source`` and ``place``, the origin that failed, are filled in by who knows them.
    """

    fault: ClassVar[str] = "invalid"
    """In a word, for counting."""

    def __init__(self, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.source = source
        self.place = ""

    @property
    def kind(self) -> str:
        """What went wrong, in a word: by these a source's failures are counted."""
        return self.fault


class TransportError(RemoteError):
    """The way there failed: no connection, a reset, a time-out, a stall. Worth another try."""

    fault = "broke off"


class UnreachableError(TransportError):
    """Nobody could be connected to: no address, nobody listening."""

    fault = "refused"


class NoAddressError(UnreachableError):
    """The name does not resolve."""

    fault = "dns"


class TlsError(TransportError):
    """No secure connection: a wrong certificate, or one who meddles on the way."""

    fault = "tls"


class AddressRefused(RemoteError):
    """The address or the origin is not one the configuration allows. Never tried again."""

    fault = "address"


class StatusError(RemoteError):
    """An answer with a status that is not a success.

    Args:
        message: What was asked and what came.
        status: The HTTP status.
        retry_after_s: What the server asked us to wait, already capped, or None.
        headers: The answer's headers; names match in any case.
        body: The beginning of the answer's body, at most 64 KiB, as it may tell the reason.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        retry_after_s: float | None = None,
        source: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(message, source=source)
        self.status = status
        self.retry_after_s = retry_after_s
        self.headers: Mapping[str, str] = headers if headers is not None else {}
        self.body = body

    @property
    def kind(self) -> str:
        """``limited``, or the hundred the status belongs to."""
        return "limited" if self.status == 429 else f"{self.status // 100}xx"


class LimitedError(StatusError):
    """A request that was not sent: its origin asked for none before ``retry_after_s`` is over."""


class KeyRefused(RemoteError):
    """The key that is configured for a source is missing or turned away: nothing else helps."""

    fault = "key"


class RemoteInvalid(RemoteError):
    """The answer arrived and cannot be right: malformed, over a limit, another file, HTML."""


class RepoUnavailable(RemoteError):
    """The source answered, and the answer is no. ``error`` is what the user is to read.

    Args:
        error: NotFound, Gated, NotPermitted and the like, with its hint.
        source: Name of the source.
    """

    fault = "no"

    def __init__(self, error: ZhcacheError, *, source: str = "") -> None:
        super().__init__(str(error), source=source)
        self.error = error


class TokenRefused(RepoUnavailable):
    """The source turns away the token it was shown, or wants one: it has nothing to give at all."""


class DigestMismatch(RemoteError):
    """All bytes came, and they do not hash to the promise.

    Args:
        promised: The digest the source promised, ``sha256:...`` or ``git-sha1:...``.
        found: The digest of what came, in the same form.
    """

    fault = "lied"

    def __init__(self, promised: str, found: str, *, source: str = "") -> None:
        super().__init__(f"promised {promised}, received {found}", source=source)
        self.promised = promised
        self.found = found


class StoreDamaged(IntegrityError):
    """A file of the store, or its index, is not what it should be. ``reason`` names the file.

    Takes what every error of the tree takes, since one that comes over the wire is made anew.
    """

    def __init__(
        self,
        template: str = mark("the store is damaged: {reason}"),
        *,
        hint: str = mark("run `zhcache repair`"),
        **args: object,
    ) -> None:
        super().__init__(template, hint=hint, **args)


def defect(error: Exception) -> ZhcacheError:
    """Returns what a caller is told of an error that nobody foresaw: its kind.

    Its text is for the log alone: it may name another user's folders.
    """
    return ZhcacheError(
        "the daemon met a defect of its own: {kind}",
        hint="zhcache logs has the details; please report it",
        kind=type(error).__name__,
    )
