"""Every error a user of zhcache can meet, as one closed tree.

Each class has one stable ``code`` (never translated, never renamed) and one ``exit_code``; a
message names the thing, the reason, and ``hint`` the next step. Messages are kept as a template
with its arguments so that the command line can put them into the reader's language, while the
wire and ``--json`` carry English. This module does no I/O and imports nothing of zhcache.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any, ClassVar

_RESERVED = frozenset({"self", "template", "hint"})


class ZhcacheError(Exception):
    """Base of all errors of zhcache.

    Args:
        template: English text with ``{name}`` fields.
        hint: What to do next, a template as well; empty where there is nothing to do.
        args: Values of the fields of both.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, template: str, *, hint: str = "", **args: object) -> None:
        self.template = template
        self.hint_template = hint
        self.values: dict[str, object] = args
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The English text with its fields filled in."""
        return fill(self.template, self.values)

    @property
    def hint(self) -> str:
        """The English next step with its fields filled in."""
        return fill(self.hint_template, self.values)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def fill(template: str, values: Mapping[str, object]) -> str:
    """Returns ``template`` with its fields replaced; a template without its values stays as it is.

    A message that came over the wire may hold braces of its own, so a failure to format must
    never hide the error that is being reported. Nor is it ours to choose what formatting does:
    fields are plain names, since a width is memory and an attribute is anybody's.
    """
    if not values:
        return template
    filled: list[str] = []
    try:
        for words, field, form, conversion in Formatter().parse(template):
            filled.append(words)
            if form or conversion:
                return template
            if field is not None:
                filled.append(str(values[field]))
    except (KeyError, ValueError):
        return template
    return "".join(filled)


class UsageError(ZhcacheError):
    """The request itself cannot be meant: a malformed name, options that exclude each other."""

    code = "usage"
    exit_code = 2


class Partial(ZhcacheError):
    """Some of what was asked was done and some was not."""

    code = "partial"
    exit_code = 3


class NotFound(ZhcacheError):
    """No such repository, revision, file or job; or one that may not be told from private."""

    code = "not_found"
    exit_code = 4


class DaemonUnreachable(ZhcacheError):
    """No daemon answers on the socket."""

    code = "daemon_unreachable"
    exit_code = 5


class AlreadyRunning(ZhcacheError):
    """Another daemon holds this store or this socket."""

    code = "already_running"
    exit_code = 5


class NoSpace(ZhcacheError):
    """The disk or the quota has no room."""

    code = "no_space"
    exit_code = 6


class VersionMismatch(ZhcacheError):
    """Client and daemon, or daemon and store, do not understand each other."""

    code = "version_mismatch"
    exit_code = 7


class NotPermitted(ZhcacheError):
    """The caller, or the daemon on the hub, may not do this."""

    code = "not_permitted"
    exit_code = 8


class Gated(NotPermitted):
    """The repository's terms must be accepted, or the token is wrong."""

    code = "gated"


class UnsafeWeights(NotPermitted):
    """Weights exist only as pickle, which runs code when it is read."""

    code = "unsafe_weights"


class IntegrityError(ZhcacheError):
    """Bytes are not what was promised, in the store or from every source."""

    code = "integrity"
    exit_code = 9


class Incomplete(IntegrityError):
    """A pipeline lacks files that its own index names.

    Not ``NotFound``: repository and revision are there, and what the index promises is not. Not
    its parent alone: fetching again may mend it, which is tried before anybody is told.
    """

    code = "incomplete"


class SourcesFailed(ZhcacheError):
    """Every source failed, none by lying."""

    code = "sources_failed"
    exit_code = 10


class Busy(ZhcacheError):
    """In use or over a limit now; the same call may succeed later."""

    code = "busy"
    exit_code = 75


class WorkerDied(ZhcacheError):
    """The process that ran a resident pipeline ended; another takes its place."""

    code = "worker_died"


class Cancelled(ZhcacheError):
    """The job was cancelled."""

    code = "cancelled"
    exit_code = 130


def _tree(base: type[ZhcacheError]) -> dict[str, type[ZhcacheError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        # A subclass elsewhere may share its parent's code; on the wire it is the parent.
        found = _tree(child) | found
    return found


def from_wire(
    code: str, template: str, hint: str = "", values: Mapping[str, Any] | None = None
) -> ZhcacheError:
    """Returns the error that another process reported; an unknown code becomes the base class.

    Values that are called as our own arguments are, are left out.
    """
    kind = _tree(ZhcacheError).get(code, ZhcacheError)
    named = {name: value for name, value in (values or {}).items() if name not in _RESERVED}
    return kind(template, hint=hint, **named)
