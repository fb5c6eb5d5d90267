"""Findings of ``doctor``: made of templates, so that the client can show them in any language."""

from __future__ import annotations

from typing import Literal

from zhcache.errors import ZhcacheError, fill
from zhcache.protocol.checks import Check
from zhcache.protocol.messages import ErrorInfo
from zhcache.protocol.sources import Phrase

Status = Literal["ok", "warn", "bad"]


def check(name: str, status: Status, detail: str, fix: str = "", /, **values: object) -> Check:
    """Returns a finding whose ``detail`` and ``fix`` are templates over the same values."""
    said = {key: str(value) for key, value in values.items()}
    return Check(
        name=name,
        status=status,
        detail=fill(detail, said),
        fix=fill(fix, said),
        said=[Phrase(template=detail, values=said)],
        mend=Phrase(template=fix, values=said),
    )


def from_error(name: str, status: Status, error: ErrorInfo | ZhcacheError) -> Check:
    """Returns a finding that is an error of ours."""
    if isinstance(error, ZhcacheError):
        return check(name, status, error.template, error.hint_template, **error.values)
    detail, fix = error.template or error.message, error.hint_template or error.hint
    return check(name, status, detail, fix, **error.values)
