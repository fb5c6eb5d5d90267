"""What goes wrong, as the clients of each hub expect to be told. Pure.

Source: ``hf_raise_for_status`` of huggingface_hub 2.4, which reads ``X-Error-Code`` before the
status and prints ``X-Error-Message``; ``raise_for_status`` of modelscope-hub 0.5, which goes by the
status and prints ``Message``.
"""

from __future__ import annotations

from typing import NamedTuple

from zhcache.errors import (
    Busy,
    Gated,
    IntegrityError,
    NoSpace,
    NotFound,
    NotPermitted,
    SourcesFailed,
    UsageError,
    ZhcacheError,
)
from zhcached.sources.refusals import RevisionMissing, TakenDown

DISABLED = "Access to this resource is disabled."
"""By these very words huggingface_hub knows a repository that was taken down."""
RETRY_AFTER_S = 5
_MAX_HEADER = 1000


class FileMissing(NotFound):
    """The revision is there, and has no such file."""


class FileLeftOut(FileMissing):
    """The hub has such a file, which is not served here; a setting may change that."""


class Failure(NamedTuple):
    """How a failure is told.

    Attributes:
        status: Of HTTP.
        code: ``X-Error-Code`` of the Hugging Face protocol, or empty.
        message: What a user is to read.
        headers: What else goes into the header.
    """

    status: int
    code: str
    message: str
    headers: dict[str, str]


_TOLD: tuple[tuple[type[ZhcacheError], int, str], ...] = (
    (RevisionMissing, 404, "RevisionNotFound"),
    # By its code huggingface_hub says "no such file" and prints the reason; of a bare 403 it says
    # that the connection failed.
    (FileLeftOut, 403, "EntryNotFound"),
    (FileMissing, 404, "EntryNotFound"),
    (NotFound, 404, "RepoNotFound"),
    (Gated, 403, "GatedRepo"),
    (NotPermitted, 403, ""),
    (UsageError, 400, ""),
    (NoSpace, 507, ""),
    (Busy, 503, ""),
    # Not 504: huggingface_hub takes that for its own cache's miss.
    (SourcesFailed, 502, ""),
    (IntegrityError, 502, ""),
)


def failure(error: ZhcacheError) -> Failure:
    """Returns how ``error`` is told; of several kinds that fit, the closest."""
    status, code = next(
        ((status, code) for kind, status, code in _TOLD if isinstance(error, kind)), (500, "")
    )
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return Failure(status, code, str(error), headers)


def huggingface_headers(error: ZhcacheError) -> dict[str, str]:
    """Returns the headers by which clients of the Hugging Face protocol tell failures apart."""
    told = failure(error)
    message = DISABLED if isinstance(error, TakenDown) else header_value(told.message)
    named = {"X-Error-Code": told.code} if told.code else {}
    return {**named, "X-Error-Message": message, **told.headers}


def header_value(text: str) -> str:
    """Returns ``text`` as it may stand in a header: one line of printable ASCII, not too long."""
    plain = "".join(char if " " <= char <= "~" else " " for char in text)
    return " ".join(plain.split())[:_MAX_HEADER]
