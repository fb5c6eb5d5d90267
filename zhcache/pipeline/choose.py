"""``load_pipeline(memory=...)``: which of the forms that are here is loaded, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zhcache.errors import fill
from zhcache.pipeline.fit import Fit, Form, Memory, fit
from zhcache.pipeline.needs import form, needs
from zhcache.placement.heard import model_of
from zhcache.protocol.placement import WeightsList

if TYPE_CHECKING:
    import torch

    from zhcache.protocol.messages import Resident, SnapshotDetail

Weigh = Callable[[str | None], WeightsList]
"""Returns what the daemon says of a variant, or of what was published."""


def choose(
    snapshot: SnapshotDetail,
    variant: str | None,
    memory: Memory,
    device: torch.device,
    weigh: Weigh,
    warm: Iterable[Resident] = (),
) -> Fit:
    """Returns what is to be loaded onto ``device``.

    Args:
        snapshot: The model, with the variants that are here.
        variant: Which one is wanted; None leaves the choice, the published weights first.
        memory: What was asked for.
        device: ``cpu`` or a CUDA device.
        weigh: Asks the daemon of a variant, and of what calls of it took.
        warm: What the daemon holds.

    Raises:
        NoSpace: Nothing that is here fits.
        UsageError: It is no pipeline.
        IntegrityError: A header cannot be read.
    """
    folders = {None: snapshot.path, **{n: made.path for n, made in snapshot.variants.items()}}
    names = folders if variant is None else [variant]
    there = _there(snapshot, device, warm)
    forms = [replace(form(Path(folders[name]), name), is_there=name in there) for name in names]
    if device.type == "cuda":
        # What was seen was seen on GPUs, whose kernels are others than the CPU's.
        forms = [taught(each, weigh(each.variant)) for each in forms]
    # The more bits, the nearer to what was published.
    forms.sort(key=lambda each: (each.variant is not None, -each.bytes))
    calls = needs(Path(snapshot.path))
    return fit(forms, calls, memory, free=free(device), is_cuda=device.type == "cuda")


def free(device: torch.device) -> int:
    """Returns the bytes that ``device`` has now; of RAM, what programs can have without swapping.

    Source: proc_meminfo(5), MemAvailable.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _there(
    snapshot: SnapshotDetail, device: torch.device, warm: Iterable[Resident]
) -> set[str | None]:
    if device.type != "cuda":
        return set()
    from zhcache.pipeline import cuda

    place = cuda.uuid_of(device)
    return {
        each.variant
        for each in warm
        if each.mode == "attach" and (each.commit, each.device) == (snapshot.commit, place)
    }


def taught(one: Form, heard: WeightsList) -> Form:
    """Returns ``one`` with what calls of it were seen to take, if any were."""
    if not heard.seen:
        return one
    model, _ = model_of(heard, None, 1)
    notes = [fill(note.template, note.values) for note in model.notes]
    return replace(one, needs=model.needs, note="; ".join(notes))
