"""``load_pipeline(memory=...)``: which of the forms that are here is loaded, and how."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from zhcache.pipeline.fit import Fit, Form, Memory, fit
from zhcache.pipeline.needs import form, needs

if TYPE_CHECKING:
    import torch

    from zhcache.protocol.messages import Resident, SnapshotDetail


def choose(
    snapshot: SnapshotDetail,
    variant: str | None,
    memory: Memory,
    device: torch.device,
    warm: Iterable[Resident] = (),
) -> Fit:
    """Returns what is to be loaded onto ``device``.

    Args:
        snapshot: The model, with the variants that are here.
        variant: Which one is wanted; None leaves the choice, the published weights first.
        memory: What was asked for.
        device: ``cpu`` or a CUDA device.
        warm: What the daemon holds.

    Raises:
        NoSpace: Nothing that is here fits.
        UsageError: It is no pipeline.
        IntegrityError: A header cannot be read.
    """
    folders = {None: snapshot.path, **{n: made.path for n, made in snapshot.variants.items()}}
    names = folders if variant is None else [variant]
    there = _there(snapshot, device, warm)
    forms = [_marked(form(Path(folders[name]), name), there) for name in names]
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


def _marked(one: Form, there: set[str | None]) -> Form:
    return Form(one.variant, one.parts, one.largest, is_there=one.variant in there)
