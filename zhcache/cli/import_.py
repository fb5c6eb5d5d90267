"""``zhcache import PATH...``: take in what other tools have downloaded already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from zhcache.caches.find import find
from zhcache.caches.found import Found
from zhcache.cli import locks
from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.cli.prefetch import show_result
from zhcache.errors import UsageError
from zhcache.i18n import mark
from zhcache.progress import size
from zhcache.protocol.messages import DiskUse, PrefetchResult, Space
from zhcache.results import result_of


@click.command(
    "import",
    cls=Command,
    help=mark(
        "Import a Hugging Face or ModelScope cache, a plain folder, or a whole Stable "
        "Diffusion model in one .safetensors file; the original is not changed."
    ),
)
@click.argument(
    "places", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--repo",
    cls=Option,
    metavar="OWNER/NAME",
    help=mark(
        "Repository name for a plain folder or file; with a cache, the only repository to import."
    ),
)
@click.option(
    "--revision",
    cls=Option,
    metavar="R",
    help=mark("Revision name for a plain folder or file."),
)
@click.option(
    "--like",
    cls=Option,
    metavar="OWNER/BASE",
    help=mark("With a file: the model to take the configurations, tokenizers and scheduler from."),
)
@click.option(
    "--lock",
    "lock_file",
    cls=Option,
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=mark("Accept only the commits and hashes of this lock file."),
)
@output_options
@pass_session
def command(
    session: Session,
    places: Sequence[Path],
    repo: str | None,
    revision: str | None,
    like: str | None,
    lock_file: Path | None,
    output: Output,
) -> int:
    """Imports each snapshot found, or the model in a file, and tells what that did to the disk."""
    outcomes = Outcomes(session, output)
    before: Space | None = None
    disks: list[DiskUse] = []
    for place in (place.expanduser().absolute() for place in places):
        with outcomes.attempt(is_last=False):
            for take in _takings(session, place, repo, revision, like, lock_file):
                with outcomes.attempt():
                    before = before or session.client.space()
                    result = take(output)
                    show_result(result, output)
                    disks += [result.disk] if result.disk else []
    if before is not None and disks:
        _tell(disks, before, session.client.space(), output)
    return outcomes.exit_code


_Take = Callable[[Output], PrefetchResult]


def _takings(
    session: Session,
    place: Path,
    repo: str | None,
    revision: str | None,
    like: str | None,
    lock_file: Path | None,
) -> list[_Take]:
    """Returns what takes in the model in a file, or each snapshot in a folder.

    Raises:
        UsageError: An option is not for it, or the lock file does not name what is there.
        IntegrityError: What is there lacks a file that the given lock names.
        NotFound: There is nothing.
    """
    if place.is_file():
        if lock_file is not None:
            raise UsageError("--lock is for a folder, and {path} is none", path=place)
        return [partial(_take_file, session, place, repo, revision, like)]
    if like is not None:
        raise UsageError("--like is for a file, and {path} is none", path=place)
    locked = locks.read(lock_file)
    takings: list[_Take] = []
    for found in find(place, repo=repo, revision=revision):
        lock = locks.of(str(found.repo), locked, lock_file)
        # A cache may hold other commits beside the one that is meant.
        if lock is None or found.commit in (None, lock.commit):
            takings.append(partial(_take, session, found if lock is None else found.held_to(lock)))
    return takings


def _take_file(
    session: Session,
    place: Path,
    repo: str | None,
    revision: str | None,
    like: str | None,
    output: Output,
) -> PrefetchResult:
    job = session.client.import_checkpoint(place, repo=repo, like=like, revision=revision)
    return result_of(attend(session, job, output))


def _take(session: Session, found: Found, output: Output) -> PrefetchResult:
    if found.flaw is not None:
        raise found.flaw
    for path in found.skipped:
        output.say(
            mark("{repo}: {path} cannot be read and is left out"), repo=found.repo, path=path
        )
    files = [real for _, real, _ in found.files]
    job = session.client.import_folder(found.request(), files)
    return result_of(attend(session, job, output))


def _tell(disks: Sequence[DiskUse], before: Space, after: Space, output: Output) -> None:
    added, shared = sum(disk.added for disk in disks), sum(disk.shared for disk in disks)
    output.say(
        mark("Found {found}: {here} were in the store already, {added} are new in it."),
        found=size(sum(disk.found for disk in disks)),
        here=size(sum(disk.here for disk in disks)),
        added=size(added),
    )
    if added:
        output.say(
            mark("Of what is new {shared} take no room: they share the originals' place on disk."),
            shared=size(shared),
        )
    output.say(
        mark("The store: {before} before, {after} now. Free: {free_before} before, {free} now."),
        before=size(before.bytes_blobs),
        after=size(after.bytes_blobs),
        free_before=size(before.bytes_free),
        free=size(after.bytes_free),
    )
