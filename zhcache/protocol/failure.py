"""Errors to and from the wire."""

from __future__ import annotations

from zhcache.errors import ZhcacheError, from_wire
from zhcache.protocol.messages import ErrorInfo


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
    """Returns the error that travelled; one from an older peer has its text and no template."""
    if info.template:
        return from_wire(info.code, info.template, info.hint_template, info.values)
    return from_wire(info.code, info.message, info.hint)
