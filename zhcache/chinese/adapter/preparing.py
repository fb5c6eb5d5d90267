"""What a training needs before its first step. Imports torch."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from zhcache.chinese.adapter import checkpoint
from zhcache.chinese.adapter.pairs import Pair, PairFile, Split, split
from zhcache.chinese.adapter.plan import Plan, Told
from zhcache.client import Client
from zhcache.errors import Busy, NotFound, UsageError
from zhcache.pipeline.reading import device_of as checked_device


def device_of(name: str) -> torch.device:
    """Returns the device that ``name`` means.

    Raises:
        UsageError: It is none, or this torch cannot reach it.
    """
    return checked_device(name)


def autocast_of(precision: str, device: torch.device) -> torch.dtype | None:
    """Returns what a training computes in; None: float32.

    ``auto`` is bfloat16 on a GPU that has it, float32 elsewhere: networks as small as these are no
    faster in bfloat16 on a CPU, not even on one that multiplies matrices in it (AMX; measured at
    widths of 64 and 160).

    Raises:
        UsageError: float16 on a CPU, where it is slower and needs its losses scaled.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise UsageError(
                "{precision} is for GPUs", hint="take bf16 or fp32", precision="--precision fp16"
            )
        return torch.float16
    if precision == "auto":
        is_quick = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if is_quick else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """Keeps ``work`` to this process; makes it if need be.

    Raises:
        Busy: Another process has it.
    """
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                "another process is training in {folder}",
                hint="wait for it, or give another --name",
                folder=work,
            ) from None
        yield


def unfinished(plan: Plan) -> checkpoint.State | None:
    """Returns the state to go on from; None: it begins.

    Raises:
        NotFound: There is none, and it was asked for.
        IntegrityError: It cannot be read.
    """
    if plan.is_fresh:
        (plan.work / checkpoint.FILE).unlink(missing_ok=True)
        return None
    state = checkpoint.read(plan.work)
    if state is None and plan.is_fresh is False:
        raise NotFound(
            "there is no unfinished training in {folder}",
            hint="leave --resume out",
            folder=plan.work,
        )
    return state


def pairs_of(plan: Plan, tell: Callable[[Told], object]) -> tuple[Split, str | None]:
    """Returns the pairs, and the digest of the file of those that are held out.

    Raises:
        NotFound: A file is not there.
        UsageError: There are too few.
        IntegrityError: A file is no file of pairs.
    """
    files = [plan.pairs, *([plan.held_out] if isinstance(plan.held_out, Path) else [])]
    read: list[PairFile] = []
    for path in files:
        file = PairFile(path, lambda lines: tell(Told(stage="pairs", lines=lines)))
        tell(Told(stage="pairs", lines=len(file), bad=file.bad, named=tuple(file.named)))
        read.append(file)
    if isinstance(plan.held_out, int):
        return split(read[0], plan.held_out, plan.seed), None
    return split(read[0], read[1], plan.seed), read[1].sha256


def spread(pairs: PairFile, most: int) -> list[Pair]:
    """Returns all pairs, or ``most`` of them from all over the file."""
    share = max(len(pairs) / most, 1.0)
    return [pairs[int(n * share)] for n in range(min(len(pairs), most))]


def encoder_folder(client: Client, named: str) -> Path:
    """Returns the folder of a Chinese encoder: a folder, or a model in the store.

    Raises:
        NotFound: Neither is there.
    """
    folder = Path(named).expanduser()
    if folder.is_dir():
        return folder
    try:
        return client.path(named)
    except (NotFound, UsageError) as error:
        raise NotFound(
            "{encoder} is neither a folder nor a model in the store",
            hint="zhcache prefetch {encoder}",
            encoder=named,
        ) from error


def discard(work: Path) -> None:
    """Takes away what a finished training leaves."""
    shutil.rmtree(work, ignore_errors=True)
