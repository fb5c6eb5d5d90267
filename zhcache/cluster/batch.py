"""``zhcache.cluster.generate``: images of many prompts, on this machine or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from zhcache.cluster.abreast import abreast
from zhcache.cluster.crew import Crew, Here
from zhcache.cluster.folder import Folder, Line
from zhcache.cluster.task import Model, Picture, Task, all_of, plain
from zhcache.cluster.trying import Trying
from zhcache.errors import Cancelled, Partial, UsageError, ZhcacheError

_HOPELESS = 8
"""Calls that fail one after the other, no image between, end a batch: so would the others."""

_TOLD = 10
"""Of the images that failed, as many are told by their number."""


@dataclass(frozen=True)
class Made:
    """One image of a batch.

    Attributes:
        prompt: What it was made of.
        seed: Its own.
        repo: The model.
        commit: Of the snapshot that made it.
        node: Name of the machine that made it.
        seconds: What the call took there.
        nsfw: Whether the pipeline's safety checker made it black.
        path: Its file, where an output folder was given.
        image: As PIL has it, where none was.
    """

    prompt: str
    seed: int
    repo: str
    commit: str
    node: str
    seconds: float
    nsfw: bool
    path: Path | None = None
    image: Any = None


class Unfinished(Partial):
    """Some images of a batch were made and others not.

    Attributes:
        made: Those that were, by their place among the prompts.
        failed: What the calls of others ended with, in the order that they did. What is in neither
            was not tried, since nothing came any more.
    """

    def __init__(
        self, told: Partial, made: dict[int, Made], failed: dict[int, ZhcacheError]
    ) -> None:
        super().__init__(told.template, hint=told.hint_template, **told.values)
        self.made = made
        self.failed = failed


def generate(
    repo: str | Sequence[str],
    prompts: Sequence[str],
    *,
    seeds: int | Sequence[int] = 0,
    out: str | Path | None = None,
    address: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    chinese: str | None = "auto",
    device: str | Sequence[str] = "auto",
    is_open: bool = False,
    on_made: Callable[[int, Made], object] = lambda index, made: None,
    **arguments: Any,
) -> list[Made]:
    """Makes one image of each prompt and returns them in their order.

    With ``out`` each image is a PNG there, with a line in ``journal.jsonl``. A batch that ended
    early goes on when it is called again: only what is missing is made. A call that fails, wherever
    it is made, keeps no other image from being made, unless eight fail in a row.

    Args:
        repo: ``OWNER/NAME``, one for all prompts or one for each.
        prompts: What is to be seen.
        seeds: That of the first image, from which they count up; or one for each. An image
            depends on its seed alone, not on where it is made.
        out: A folder; None returns images without writing any.
        address: None: this machine alone, without Ray. A cluster's otherwise, as ``ray.init`` takes
            it: ``"auto"``, ``HOST:PORT``, ``ray://HOST:PORT``.
        variant: As ``load_pipeline`` takes it.
        revision: As ``load_pipeline`` takes it. What it means is settled once for the batch.
        chinese: As ``load_pipeline`` takes it.
        device: Of each machine: a device as ``load_pipeline`` takes it, or several.
        is_open: Whether a cluster that lets in anybody (no token) will do.
        on_made: Told of each image as it comes, in the calling thread.
        **arguments: Of the pipeline's call: words and numbers, for all prompts.

    Raises:
        UsageError: What is asked cannot be meant; or ``out`` holds results of other prompts.
        Unfinished: Some images were made and others not; call again with the same folder.
        NotPermitted: The cluster has no token authentication.
        ZhcacheError: What ended the first call, where none was made.
    """
    tasks = all_of(repo, prompts, seeds, Model(
        repo="", revision=revision, variant=variant, chinese=chinese
    ), plain(arguments))  # fmt: skip
    devices = [device] if isinstance(device, str) else list(device)
    if not devices:
        raise UsageError("there is no device", hint="device='auto'")
    folder = None if out is None else Folder(Path(out).expanduser())
    try:
        done = {} if folder is None else folder.made(tasks)
        found = {i: _of_line(line, folder) for i, line in done.items() if folder is not None}
        if missing := [i for i in range(len(tasks)) if i not in found]:
            crew = _crew(address, sorted({t.model.key for t in tasks}), devices, is_open)
            trying = Trying()
            try:
                commits = _settled(tasks, done, crew, trying)
                _Batch(tasks, commits, crew, trying, folder, on_made).run(missing, found)
            finally:
                crew.close()
    finally:
        if folder is not None:
            folder.close()
    return [found[i] for i in range(len(tasks))]


def _crew(address: str | None, models: list[str], devices: list[str], is_open: bool) -> Crew:
    if address is None:
        return Here(devices)
    from zhcache.cluster.deploy import join

    return join(address, models, devices, is_open=is_open)


def _settled(
    tasks: Sequence[Task], done: Mapping[int, Line], crew: Crew, trying: Trying
) -> dict[Model, str]:
    """Returns the commits that the models mean: a branch may mean others on other machines.

    What the journal names goes first, so that a batch that goes on does so with the same weights.
    """
    commits = {tasks[index].model: line.commit for index, line in done.items()}
    for model in dict.fromkeys(task.model for task in tasks):
        if model not in commits:
            commits[model] = trying.through(partial(crew.settle, model))
    return commits


class _Batch:
    """The calls of a batch: as many under way as its crew can use, each made until it is done.

    A call that fails for itself leaves its neighbours alone: its image is missing in the end.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        commits: Mapping[Model, str],
        crew: Crew,
        trying: Trying,
        folder: Folder | None,
        on_made: Callable[[int, Made], object],
    ) -> None:
        self._tasks = tasks
        self._commits = commits
        self._crew = crew
        self._trying = trying
        self._folder = folder
        self._on_made = on_made
        self._failed: dict[int, ZhcacheError] = {}
        self._in_a_row = 0

    def run(self, missing: Sequence[int], found: dict[int, Made]) -> None:
        """Makes what is ``missing`` and adds it to ``found``.

        Raises:
            ZhcacheError: What ended it, where there are no results at all.
            Unfinished: There are some.
        """
        left = iter(missing)
        if self._crew.abreast is not None:
            models = [task.model.key for task in self._tasks]
            left = abreast(models, missing, self._crew.abreast)
        with ThreadPoolExecutor(self._crew.width, thread_name_prefix="call") as pool:
            under_way: dict[Future[Picture], int] = {}
            try:
                while True:
                    if not self._trying.is_over:
                        for index in islice(left, self._crew.width - len(under_way)):
                            under_way[pool.submit(self._made, self._tasks[index])] = index
                    if not under_way:
                        break
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        index = under_way.pop(future)
                        if error := future.exception():
                            self._note(index, error)
                        else:
                            found[index] = self._kept(index, future.result())
            except BaseException:
                # An interrupt, or a disk that is full: the pool is left once its calls are over.
                self._trying.end()
                self._crew.close()
                raise
        if self._failed:
            self._tell(found)

    def _made(self, task: Task) -> Picture:
        model = msgspec.structs.replace(task.model, revision=self._commits[task.model])
        settled = msgspec.structs.replace(task, model=model)
        return self._trying.through(lambda: self._crew.make(settled))

    def _note(self, index: int, error: BaseException) -> None:
        """Notes a call that failed for good; ends the batch where nothing else comes."""
        if self._trying.is_over and isinstance(error, Cancelled):
            return
        if not isinstance(error, ZhcacheError):
            raise error
        self._failed[index] = error
        self._in_a_row += 1
        if self._in_a_row == _HOPELESS:
            self._trying.end()

    def _kept(self, index: int, picture: Picture) -> Made:
        self._trying.came()
        self._in_a_row = 0
        task = self._tasks[index]
        if self._folder is None:
            made = Made(
                task.prompt, task.seed, task.model.repo, picture.commit, picture.node,
                picture.seconds, picture.nsfw, image=picture.image(),
            )  # fmt: skip
        else:
            line = self._folder.add(index, len(self._tasks), task, picture)
            made = _of_line(line, self._folder)
        self._on_made(index, made)
        return made

    def _tell(self, found: Mapping[int, Made]) -> NoReturn:
        first = next(iter(self._failed.values()))
        if not found:
            raise first
        numbers = [str(index) for index in islice(self._failed, _TOLD)]
        if len(self._failed) > _TOLD:
            numbers.append("...")
        told = Partial(
            "{count} of {all} images were made, and not number {numbers}: {reason}",
            hint="mend that and call again with the same folder; what is there is not made again"
            if self._folder is not None
            else "name a folder with out=, so that a batch can go on",
            count=len(found),
            all=len(self._tasks),
            numbers=", ".join(numbers),
            reason=first.message,
        )
        raise Unfinished(told, dict(found), self._failed) from first


def _of_line(line: Line, folder: Folder) -> Made:
    return Made(
        line.prompt, line.seed, line.repo, line.commit, line.node, line.seconds, line.nsfw,
        path=folder.path / line.file,
    )  # fmt: skip
