"""``zhcache rm REPO...``: let go."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import Removed


@click.command(
    "rm", cls=Command, help=mark("Remove repositories; `zhcache gc` then frees their space.")
)
@click.argument("repos", metavar="REPO...", nargs=-1, required=True)
@click.option("--revision", cls=Option, metavar="R", help=mark("Only this revision."))
@click.option(
    "--variant",
    "variants",
    cls=Option,
    metavar="V",
    multiple=True,
    help=mark("Only this variant, not what it was made of; may be repeated."),
)
@output_options
@pass_session
def command(
    session: Session,
    repos: Sequence[str],
    revision: str | None,
    variants: Sequence[str],
    output: Output,
) -> int:
    """Removes each."""
    outcomes = Outcomes(session, output)
    for repo, variant in product(repos, variants or (None,)):
        with outcomes.attempt():
            _show(session.client.remove(repo, revision=revision, variant=variant), output)
    return outcomes.exit_code


def _show(removed: Removed, output: Output) -> None:
    output.emit(removed, ids=[removed.repo], text=lambda: [_line(removed)])
    if removed.followed:
        output.say(
            mark("{repo} is followed: the next look brings it back; `zhcache unfollow {repo}`"),
            repo=removed.repo,
        )


def _line(removed: Removed) -> str:
    freed = size(removed.bytes_released)
    if not removed.variants:
        text = mark("{repo}: removed; `zhcache gc` frees {size}")
        return translate(text, repo=removed.repo, size=freed)
    names = ", ".join(removed.variants)
    if removed.commits:
        text = mark("{repo}: removed with its variants {variants}; `zhcache gc` frees {size}")
    else:
        text = mark("{repo}: variant {variants} removed; `zhcache gc` frees {size}")
    return translate(text, repo=removed.repo, variants=names, size=freed)
