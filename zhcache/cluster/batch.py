"""``zhcache.cluster.generate``: images of many prompts, on this machine or a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from zhcache.cluster.crew import Crew, Here
from zhcache.cluster.folder import Folder, Line
from zhcache.cluster.retry import verdict
from zhcache.cluster.task import Model, Picture, Task, plain
from zhcache.errors import Cancelled, Partial, UsageError, ZhcacheError

_PATIENCE_S = 600.0
"""How long calls are made later while no image of the batch comes at all."""

_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


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
    early goes on when it is called again: only what is missing is made.

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
        Partial: Some images were made and others not; call again with the same folder.
        NotPermitted: The cluster has no token authentication.
        ZhcacheError: What ended the first call, where none was made.
    """
    tasks = _tasks(repo, prompts, seeds, Model(
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
            try:
                commits = _settled(tasks, done, crew)
                batch = _Batch(tasks, commits, missing, crew, folder, on_made)
                batch.run(found)
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


def _tasks(
    repo: str | Sequence[str],
    prompts: Sequence[str],
    seeds: int | Sequence[int],
    model: Model,
    arguments: dict[str, Any],
) -> list[Task]:
    if isinstance(prompts, str):
        raise UsageError("prompts is one text", hint="give a list: prompts=[...]")
    texts = list(prompts)
    repos = [repo] * len(texts) if isinstance(repo, str) else list(repo)
    if isinstance(seeds, int):
        seeds = range(seeds, seeds + len(texts))
    numbers = list(seeds)
    for name, given in (("repo", repos), ("seeds", numbers)):
        if len(given) != len(texts):
            raise UsageError(
                "{name} has {count} entries for {prompts} prompts",
                hint="give one, or one for each prompt",
                name=name,
                count=len(given),
                prompts=len(texts),
            )
    return [
        Task(model=msgspec.structs.replace(model, repo=r), prompt=p, seed=s, arguments=arguments)
        for r, p, s in zip(repos, texts, numbers, strict=True)
    ]


def _settled(tasks: Sequence[Task], done: Mapping[int, Line], crew: Crew) -> dict[Model, str]:
    """Returns the commits that the models mean: a branch may mean others on other machines.

    What the journal names goes first, so that a batch that goes on does so with the same weights.
    """
    commits = {tasks[index].model: line.commit for index, line in done.items()}
    for model in dict.fromkeys(task.model for task in tasks):
        if model not in commits:
            commits[model] = crew.settle(model)
    return commits


class _Batch:
    """The calls of a batch: as many under way as its crew can use, each made until it is done."""

    def __init__(
        self,
        tasks: Sequence[Task],
        commits: Mapping[Model, str],
        missing: Sequence[int],
        crew: Crew,
        folder: Folder | None,
        on_made: Callable[[int, Made], object],
    ) -> None:
        self._tasks = tasks
        self._commits = commits
        self._missing = missing
        self._crew = crew
        self._folder = folder
        self._on_made = on_made
        self._is_over = threading.Event()
        self._came = time.monotonic()

    def run(self, found: dict[int, Made]) -> None:
        """Makes what is missing and adds it to ``found``.

        Raises:
            ZhcacheError: What ended it; ``Partial`` where there are results none the less.
        """
        failure: BaseException | None = None
        left = iter(self._missing)
        with ThreadPoolExecutor(self._crew.width, thread_name_prefix="call") as pool:
            under_way: dict[Future[Picture], int] = {}
            try:
                while True:
                    if failure is None:
                        for index in islice(left, self._crew.width - len(under_way)):
                            under_way[pool.submit(self._made, self._tasks[index])] = index
                    if not under_way:
                        break
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        index = under_way.pop(future)
                        if error := future.exception():
                            failure = failure or error
                            self._is_over.set()
                        else:
                            found[index] = self._kept(index, future.result())
            except BaseException:
                # An interrupt, or a disk that is full: the pool is left once its calls are over.
                self._is_over.set()
                self._crew.close()
                raise
        if failure is not None:
            raise self._told(failure, found) from failure

    def _made(self, task: Task) -> Picture:
        """Returns one task's image, however often that must be tried."""
        model = msgspec.structs.replace(task.model, revision=self._commits[task.model])
        settled = msgspec.structs.replace(task, model=model)
        tries, pause = 0, _PAUSE_S
        while True:
            tries += 1
            try:
                return self._crew.make(settled)
            except Exception as error:
                judged = verdict(error, tries)
                if judged == "later":
                    tries -= 1
                    is_hopeless = time.monotonic() - self._came > _PATIENCE_S
                else:
                    is_hopeless = judged == "give up"
                if is_hopeless:
                    raise
            if self._is_over.wait(pause):
                raise Cancelled("the batch was ended before this image was made")
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _kept(self, index: int, picture: Picture) -> Made:
        self._came = time.monotonic()
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

    def _told(self, failure: BaseException, found: Mapping[int, Made]) -> BaseException:
        if not isinstance(failure, ZhcacheError) or not found:
            return failure
        return Partial(
            "{count} of {all} images were made, then: {reason}",
            hint="mend that and call again with the same folder; what is there is not made again"
            if self._folder is not None
            else "name a folder with out=, so that a batch can go on",
            count=len(found),
            all=len(self._tasks),
            reason=failure.message,
        )


def _of_line(line: Line, folder: Folder) -> Made:
    return Made(
        line.prompt, line.seed, line.repo, line.commit, line.node, line.seconds, line.nsfw,
        path=folder.path / line.file,
    )  # fmt: skip
