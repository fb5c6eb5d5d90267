"""Several things asked for at once: each is tried, and one exit code speaks for all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from zhcache.cli.base import Output, Session
from zhcache.cli.report import report
from zhcache.errors import Partial, ZhcacheError


class Outcomes:
    """Counts successes and errors; an error is told at once and does not stop the rest.

    A thing may take several attempts, one after the other; it succeeded if none of them failed.

    Args:
        session: This run; with ``--debug`` the first error is raised instead.
        output: In what form errors are told.
    """

    def __init__(self, session: Session, output: Output) -> None:
        self._session = session
        self._output = output
        self._codes: list[int] = []
        self.succeeded = 0

    @contextlib.contextmanager
    def attempt(self, *, is_last: bool = True) -> Iterator[None]:
        """Tells and counts the error that leaves the block.

        Args:
            is_last: Whether the thing is done when this block is; else only errors count.
        """
        try:
            yield
        except ZhcacheError as error:
            if self._session.debug:
                raise
            self._codes.append(report(error, is_json=self._output.is_json))
        else:
            self.succeeded += is_last

    @property
    def exit_code(self) -> int:
        """0 if all succeeded, the first error's code if none did, 3 in between."""
        if not self._codes:
            return 0
        return Partial.exit_code if self.succeeded else self._codes[0]
