"""Errors to and from the wire."""

from __future__ import annotations

from itertools import islice

from zhcache.errors import ZhcacheError, from_wire
from zhcache.protocol.messages import ErrorInfo

MAX_TEXT = 4000
"""Characters of a text or a value that are believed; a worker says ``MAX_WORDS`` at most."""

MAX_VALUES = 32


def to_info(error: ZhcacheError) -> ErrorInfo:
    """Returns ``error`` as it travels: English, with what is needed to translate it."""
    return ErrorInfo(
        code=error.code,
        message=error.message,
        hint=error.hint,
        template=error.template,
        hint_template=error.hint_template,
        values={name: str(value) for name, value in error.values.items()},
    )


def to_error(info: ErrorInfo) -> ZhcacheError:
    """Returns the error that travelled, to be raised or put into the reader's language.

    One from an older peer has its text and no template. It may come from a worker that is in a
    stranger's hands, or from a source by way of the daemon: it is cut to what a person reads, and
    what would move a terminal's cursor is taken out.
    """
    if info.template and info.values:
        values = {name: _plain(text) for name, text in islice(info.values.items(), MAX_VALUES)}
        hint = info.hint_template or info.hint
        return from_wire(info.code, _plain(info.template), _plain(hint), values)
    return from_wire(info.code, _plain(info.message), _plain(info.hint))


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text[:MAX_TEXT])
