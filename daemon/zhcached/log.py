"""Structured logs: one JSON object a line, to stderr and to a file that ``zhcache logs`` reads.

Secrets are removed here, in the one place every line passes: by the name of the field, by the
shape of the value, and from the query of every URL (signed addresses are secrets too).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

from zhcache.protocol.messages import LogLine

MAX_BYTES = 8 * 2**20
_SECRET_KEYS = re.compile(r"authorization|cookie|token|secret|password|credential", re.IGNORECASE)
_SECRET_VALUES = re.compile(
    r"(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}|\bhf_[A-Za-z0-9]{8,}|\bms-[0-9a-f-]{20,}"
)
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*")
_HIDDEN = "[redacted]"


def redact(value: Any) -> Any:
    """Returns ``value`` without tokens and without the queries of URLs, to any depth."""
    if isinstance(value, str):
        return _QUERY.sub(r"\1?…", _SECRET_VALUES.sub(_HIDDEN, value))
    if isinstance(value, dict):
        return {
            key: _HIDDEN if _SECRET_KEYS.search(str(key)) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return value


def _redacted(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return redact(dict(event))


def _is_plain_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return True


class LogFile:
    """Appends lines to a file of bounded size; one older generation is kept.

    Lines are echoed to stderr for a journal or a terminal, not where stderr is a plain file:
    nobody would keep that one from growing for ever.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("a", encoding="utf-8")
        self._echoes = not _is_plain_file(sys.stderr)

    def msg(self, message: str) -> None:
        """Writes one line; a disk that is full and a journal that is gone silence it, no more."""
        if self._echoes:
            with contextlib.suppress(OSError, ValueError):
                print(message, file=sys.stderr, flush=True)  # noqa: T201 - stderr is the journal
        with self._lock:
            try:
                if self._file.tell() > MAX_BYTES:
                    self._rotate()
                self._file.write(message + "\n")
                self._file.flush()
            except OSError:
                # The daemon must go on serving reads when the disk is full.
                return

    debug = info = warning = error = critical = msg

    def _rotate(self) -> None:
        self._file.close()
        self.path.replace(self.path.with_suffix(".1.jsonl"))
        self._file = self.path.open("a", encoding="utf-8")


def configure(folder: Path) -> Path:
    """Sends all logs to stderr and ``folder/zhcached.jsonl``; returns the file's path."""
    path = folder / "zhcached.jsonl"
    sink = LogFile(path)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt=None, key="time"),
            structlog.processors.format_exc_info,
            _redacted,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=True,
    )
    return path


def read(path: Path, *, job: str = "", lines: int = 200) -> list[LogLine]:
    """Returns the last ``lines`` log lines, those of one job if ``job`` is given."""
    kept: deque[LogLine] = deque(maxlen=lines)
    for part in (path.with_suffix(".1.jsonl"), path):
        if part.exists():
            with part.open(encoding="utf-8", errors="replace") as stream:
                kept.extend(parse_lines(stream, job=job))
    return list(kept)


def parse_lines(stream: Iterator[str] | Any, *, job: str = "") -> Iterator[LogLine]:
    """Yields the log lines of ``stream``; a line torn by a crash is passed over."""
    for text in stream:
        try:
            fields = json.loads(text)
        except ValueError:
            continue
        if not isinstance(fields, dict) or (job and fields.get("job") != job):
            continue
        yield LogLine(
            time=float(fields.pop("time", 0.0)),
            level=str(fields.pop("level", "info")),
            event=str(fields.pop("event", "")),
            job=str(fields.pop("job", "")),
            fields=fields,
        )
