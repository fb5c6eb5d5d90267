"""``zhcache doctor``: everything that could be wrong, each line with its mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.diagnosis import Finding, examine
from zhcache.i18n import mark, translate
from zhcache.protocol.checks import Checks

_STATES = {"ok": mark("ok"), "warn": mark("warning"), "bad": mark("bad")}


@click.command(
    "doctor", cls=Command, help=mark("Check everything, and say how to fix what is wrong.")
)
@output_options
@pass_session
def command(session: Session, output: Output) -> int:
    """Examines; anything bad is exit code 1."""
    found = examine(session.client)
    output.emit(
        Checks(checks=[finding.check() for finding in found]),
        ids=[finding.name for finding in found if finding.status != "ok"],
        text=lambda: _lines(found),
    )
    return 1 if any(finding.status == "bad" for finding in found) else 0


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    for finding in found:
        state = translate(_STATES[finding.status])
        yield f"[{state}] {finding.name}: {finding.said()}"
        if finding.status != "ok" and (fix := finding.mend()):
            yield f"    {translate(mark('Next: {hint}'), hint=fix)}"
