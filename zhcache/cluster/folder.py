"""A batch's folder: a file for each prompt, and a journal by which an ended batch goes on.

``journal.jsonl`` has a line for each image, written once its file is there under its name. A line
counts if the file is what it says; so a torn line or file is never taken for a result.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from zhcache.cluster.task import Picture, Task
from zhcache.errors import Busy, NoSpace, UsageError

JOURNAL = "journal.jsonl"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One image of the folder: what was asked, what came, and who made it.

    ``asked`` is a digest of all that decides what the image is, but for the commit.
    """

    index: int
    file: str
    sha256: str
    asked: str
    repo: str
    commit: str
    variant: str | None
    prompt: str
    seed: int
    node: str
    seconds: float
    nsfw: bool = False
    schema: int = 1


class Folder:
    """An output folder, held by one batch at a time. One thread's.

    Args:
        path: Made where it is not there yet.

    Raises:
        UsageError: It cannot be written.
        Busy: Another batch writes into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._journal = (path / JOURNAL).open("a+b", buffering=0)
        except OSError as error:
            raise _refused(path, error) from error
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._journal.close()
            raise Busy(
                "another batch writes into {path}", hint="wait for it, or name another", path=path
            ) from None

    def close(self) -> None:
        """Lets another batch have it."""
        self._journal.close()

    def made(self, tasks: Iterable[Task]) -> dict[int, Line]:
        """Returns what is here already of a batch, by the tasks' indices.

        Raises:
            UsageError: It holds results of another batch, which would be written over.
        """
        kept = {line.index: line for line in self._lines()}
        found: dict[int, Line] = {}
        for index, task in enumerate(tasks):
            line = kept.get(index)
            if line is None:
                continue
            if line.asked != digest(task):
                raise UsageError(
                    "{path} holds results of other prompts: number {index} is of {prompt}",
                    hint="name another folder, or give the prompts, seeds and arguments as before",
                    path=self.path,
                    index=index,
                    prompt=repr(line.prompt),
                )
            if self._is_whole(line):
                found[index] = line
        return found

    def add(self, index: int, count: int, task: Task, picture: Picture) -> Line:
        """Writes one image and its line.

        Args:
            index: Of the task in its batch.
            count: Of the batch's tasks, for a name whose order is the batch's.
            task: What was asked.
            picture: What came.

        Raises:
            UsageError: The place cannot be written.
            NoSpace: The disk is full.
        """
        from zhcache.cli.picture import encoded

        model = task.model
        said = {
            "prompt": task.prompt,
            "seed": str(task.seed),
            "repo": model.repo,
            "commit": picture.commit,
            **({"variant": model.variant} if model.variant else {}),
            **{name: str(value) for name, value in task.arguments.items()},
        }
        content = encoded(picture.image(), said)
        name = f"{index:0{max(len(str(count - 1)), 5)}}.png"
        line = Line(
            index=index,
            file=name,
            sha256=hashlib.sha256(content).hexdigest(),
            asked=digest(task),
            repo=model.repo,
            commit=picture.commit,
            variant=model.variant,
            prompt=task.prompt,
            seed=task.seed,
            node=picture.node,
            seconds=round(picture.seconds, 3),
            nsfw=picture.nsfw,
        )
        try:
            self._write(name, content)
            self._note(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise _refused(self.path, error) from error
        return line

    def _write(self, name: str, content: bytes) -> None:
        part = self.path / f".{name}.part"
        try:
            part.write_bytes(content)
            part.rename(self.path / name)
        except OSError:
            # On a disk that is full what is left of it would be missed.
            part.unlink(missing_ok=True)
            raise

    def _note(self, line: bytes) -> None:
        """Appends a line to the journal, or nothing of it: half a line would take the next along.

        A disk that fills up takes what fits, and says that it is full only when asked again.
        """
        end = self._journal.seek(0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:
                left = left[self._journal.write(left) :]
        except OSError:
            self._journal.truncate(end)
            raise

    def _lines(self) -> list[Line]:
        self._journal.seek(0)
        content = self._journal.read()
        if content and not content.endswith(b"\n"):
            # Torn by a crash; what is written next must not continue it.
            self._journal.write(b"\n")
        found: list[Line] = []
        for raw in content.splitlines():
            try:
                found.append(msgspec.json.decode(raw, type=Line))
            except msgspec.MsgspecError:
                continue
        return found

    def _is_whole(self, line: Line) -> bool:
        try:
            with (self.path / Path(line.file).name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == line.sha256
        except OSError:
            return False


def digest(task: Task) -> str:
    """Returns what tells a task from every other, its model as it was asked for.

    What a branch means may move between two runs of a batch, which goes on as it began.
    """
    model = task.model
    said: list[Any] = [
        model.repo, model.revision, model.variant, model.chinese, task.prompt, task.seed,
        sorted(task.arguments.items()),
    ]  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def _refused(path: Path, error: OSError) -> UsageError | NoSpace:
    reason = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return NoSpace(
            "{path} cannot be written: {reason}",
            hint="make room there, and call again: what is there is not made again",
            path=path,
            reason=reason,
        )
    return UsageError(
        "{path} cannot be written: {reason}", hint="name another folder", path=path, reason=reason
    )
