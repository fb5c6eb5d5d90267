"""``zhcache prefetch REPO...``: fetch into the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from zhcache.cli import locks
from zhcache.cli.attend import attend
from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.outcomes import Outcomes
from zhcache.cli.table import table
from zhcache.errors import UsageError
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.messages import (
    Job,
    PrefetchPlan,
    PrefetchRequest,
    PrefetchResult,
)
from zhcache.results import result_of

_VARIANT_STATES = {
    "made": mark("made"),
    "present": mark("held already"),
    "published": mark("published by the hub"),
}
_PLANNED_STATES = {**_VARIANT_STATES, "made": mark("to be made")}
_PLAN = (mark("PATH"), mark("SIZE"), mark("HELD"), mark("SOURCES"))


@click.command(
    "prefetch",
    cls=Command,
    help=mark(
        "Download repositories into the store and verify them; joins a download of the "
        "same that is already running."
    ),
)
@click.argument("repos", metavar="REPO...", nargs=-1)
@click.option("--revision", cls=Option, metavar="R", help=mark("Branch, tag or commit."))
@click.option(
    "--variant",
    "variants",
    cls=Option,
    metavar="V",
    multiple=True,
    help=mark("Make this variant as well; may be repeated."),
)
@click.option(
    "--include",
    cls=Option,
    metavar="GLOB",
    multiple=True,
    help=mark("Only files that match; may be repeated."),
)
@click.option(
    "--exclude",
    cls=Option,
    metavar="GLOB",
    multiple=True,
    help=mark("No files that match; may be repeated."),
)
@click.option(
    "--only-pipeline",
    cls=Option,
    is_flag=True,
    help=mark("Leave out files that from_pretrained would not read."),
)
@click.option(
    "--allow-pickle",
    cls=Option,
    is_flag=True,
    help=mark("Convert weights that exist only as pickle, in a sandbox; keep only safetensors."),
)
@click.option("--source", cls=Option, metavar="NAME", help=mark("Use only this source."))
@click.option("--detach", cls=Option, is_flag=True, help=mark("Print the job's id and return."))
@click.option(
    "--dry-run",
    cls=Option,
    is_flag=True,
    help=mark("Show what would be downloaded, but download nothing."),
)
@click.option(
    "--lock",
    "lock_file",
    cls=Option,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=mark("Accept only the commits and hashes of this lock file."),
)
@output_options
@pass_session
def command(
    session: Session,
    *,
    repos: Sequence[str],
    revision: str | None,
    variants: Sequence[str],
    include: Sequence[str],
    exclude: Sequence[str],
    source: str | None,
    lock_file: Path | None,
    output: Output,
    only_pipeline: bool,
    allow_pickle: bool,
    detach: bool,
    dry_run: bool,
) -> int:
    """Fetches each repository; one result for each."""
    locked = locks.read(lock_file)
    requests = [
        PrefetchRequest(
            repo=repo,
            revision=revision,
            variants=list(variants),
            include=list(include),
            exclude=list(exclude),
            source=source,
            lock=locks.of(repo, locked, lock_file),
            only_pipeline=only_pipeline,
            allow_pickle=allow_pickle,
        )
        for repo in repos or locked
    ]
    if not requests:
        raise UsageError("no repository is named", hint="zhcache prefetch OWNER/NAME")
    outcomes = Outcomes(session, output)
    if dry_run:
        for request in requests:
            with outcomes.attempt():
                _show_plan(session.client.dry_run(request), output)
        return outcomes.exit_code
    started: list[Job] = []
    for request in requests:
        with outcomes.attempt(is_last=False):
            started.append(session.client.submit(request))
    for number, job in enumerate(started):
        with outcomes.attempt():
            if detach:
                _show_detached(job, output)
            else:
                over = attend(session, job, output, started[number + 1 :])
                show_result(result_of(over), output)
    return outcomes.exit_code


def show_result(result: PrefetchResult, output: Output) -> None:
    """Prints what a finished prefetch or import brought."""
    for warning in result.warnings:
        output.say(mark("Warning: {warning}"), warning=translate(warning))
    output.emit(result, ids=[result.path], text=lambda: _result_lines(result))


def _result_lines(result: PrefetchResult) -> Iterator[str]:
    yield translate(
        mark("{repo} {commit}: {files} files, {size}, {fetched} fetched in {seconds} s, {trust}"),
        repo=result.repo,
        commit=result.commit[:12],
        files=result.files,
        size=size(result.bytes),
        fetched=size(result.bytes_fetched),
        seconds=f"{result.seconds:.1f}",
        trust=result.trust,
    )
    if result.sources:
        shares = ", ".join(f"{name} {size(count)}" for name, count in result.sources.items())
        yield translate(mark("from {sources}"), sources=shares)
    for path, reason in result.left_out.items():
        yield translate(mark("left out: {path}: {reason}"), path=path, reason=translate(reason))
    for name, made in result.variants.items():
        state, held = translate(_VARIANT_STATES.get(made.state, made.state)), size(made.bytes)
        yield translate(mark("variant {name}, {state}: {size}"), name=name, state=state, size=held)
        yield made.path
    yield result.path


def _show_detached(job: Job, output: Output) -> None:
    output.emit(
        job,
        ids=[job.id],
        text=lambda: [
            translate(
                mark("{repo}: job {job} runs in the background; `zhcache wait {job}`"),
                repo=job.repo,
                job=job.id,
            )
        ],
    )


def _show_plan(plan: PrefetchPlan, output: Output) -> None:
    output.emit(plan, ids=[file.path for file in plan.files], text=lambda: _plan_lines(plan))


def _plan_lines(plan: PrefetchPlan) -> Iterator[str]:
    yield translate(
        mark("{repo} {commit}: {size} in {files} files, {held} held already, {trust}"),
        repo=plan.repo,
        commit=plan.commit[:12],
        size=size(plan.bytes),
        files=len(plan.files),
        held=size(plan.bytes_present),
        trust=plan.trust,
    )
    rows = [(f.path, size(f.size), size(f.present), " ".join(f.sources)) for f in plan.files]
    yield from table(_PLAN, rows, right=(1, 2))
    for path, reason in plan.left_out.items():
        yield translate(mark("left out: {path}: {reason}"), path=path, reason=translate(reason))
    for name, planned in plan.variants.items():
        yield translate(
            mark("variant {name}, {state}: about {size}, of {sources}"),
            name=name,
            state=translate(_PLANNED_STATES[planned.state]),
            size=size(planned.bytes),
            sources=", ".join(planned.sources),
        )
