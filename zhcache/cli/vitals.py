"""What monitoring found, for people: lines, tables and the view that changes in place."""

from __future__ import annotations

import functools
import pwd
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from zhcache.cli.table import printable, table
from zhcache.i18n import mark, translate
from zhcache.progress import size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from zhcache.monitoring.records import GpuUse, Peak, ProcessUse, Sample, Summary

_HEADS = (
    "PID",
    mark("USER"),
    mark("CPU %"),
    mark("MEMORY"),
    mark("OWN SHARE"),
    mark("GPU %"),
    mark("GPU MEMORY"),
    mark("READ/s"),
    mark("WRITTEN/s"),
    mark("COMMAND"),
)
_PEAK_HEADS = (mark("HIGHEST"), mark("AMOUNT"), mark("MEASURED AS"))
_PROCESS_HEADS = (
    "PID",
    mark("USER"),
    mark("MEMORY"),
    mark("GPU MEMORY"),
    mark("CPU SECONDS"),
    mark("READ"),
    mark("WRITTEN"),
    mark("COMMAND"),
)
_COMMAND_SHOWN = 60
_PROCESSES_SHOWN = 10
_FRAME_LINES = 6


@functools.cache
def user(uid: int) -> str:
    """Returns a user's name, or the number of one that this machine does not know."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def line(sample: Sample) -> str:
    """Returns one sample as one line, where there is no terminal."""
    used = sample.processes
    at = datetime.fromtimestamp(sample.time).astimezone().strftime("%H:%M:%S")
    parts = [at, translate(mark("{count} processes"), count=len(used))]
    if (cpu := _sum([one.cpu for one in used])) is not None:
        parts.append(translate(mark("CPU {percent} %"), percent=f"{cpu:.0f}"))
    parts.append(translate(mark("memory {amount}"), amount=size(sum(one.rss for one in used))))
    if (vram := _sum([one.vram for one in used])) is not None:
        parts.append(translate(mark("GPU memory {amount}"), amount=size(vram)))
    read, written = (_sum([getattr(one, f) for one in used]) for f in ("read", "written"))
    if read is not None and written is not None:
        text = mark("disk {read}/s read, {written}/s written")
        parts.append(translate(text, read=size(read), written=size(written)))
    return "  ".join([*parts, *(_gpu(gpu) for gpu in sample.gpus)])


def view(sample: Sample, console: Console) -> RenderableType:
    """Returns a sample as it is shown in place: the machine, its GPUs, and what fits below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    heads = [Text(_machine(sample)), *(Text(_gpu(gpu)) for gpu in sample.gpus), Text("")]
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(_HEADS):
        is_number = 2 <= number < len(_HEADS) - 1
        rows.add_column(
            translate(head), justify="right" if is_number else "left", no_wrap=True,
            overflow="ellipsis",
        )  # fmt: skip
    room = max(1, console.height - _FRAME_LINES - len(sample.gpus))
    for use in sorted(sample.processes, key=_weight, reverse=True)[:room]:
        # As Text: in a command line, brackets are no markup.
        rows.add_row(*(Text(cell) for cell in _row(use)))
    foot = Text(translate(mark("Ctrl-C stops and shows the peaks")), style="dim")
    return Group(*heads, rows, foot)


def summary(found: Summary) -> Iterator[str]:
    """Yields the lines of a whole span: sums, peaks, and who took most."""
    sums, peaks, processes = summary_tables(found)
    yield from (" ".join(row) for row in sums)
    yield ""
    yield from table(peaks[0], peaks[1:], right=(1,))
    if len(processes) > 1:
        yield ""
        yield from table(processes[0], processes[1 : _PROCESSES_SHOWN + 1], right=(2, 3, 4, 5, 6))


def summary_tables(found: Summary) -> list[list[Sequence[str]]]:
    """Returns sums, peaks and processes; the latter two with a first row of heads."""
    text = mark("{seconds} s, {samples} samples, {cpu} s of CPU time")
    sums = [
        translate(
            text,
            seconds=f"{found.seconds:.1f}",
            samples=found.samples,
            cpu=f"{found.cpu_seconds:.1f}",
        )
    ]
    if found.read is not None and found.written is not None:
        text = mark("; disk: {read} read, {written} written")
        sums[0] += translate(text, read=size(found.read), written=size(found.written))
    if found.received is not None and found.sent is not None:
        text = mark("; network of the machine: {received} received, {sent} sent")
        sums[0] += translate(text, received=size(found.received), sent=size(found.sent))
    processes = [
        (
            str(one.pid),
            user(one.uid),
            size(one.rss),
            _bytes(one.vram),
            f"{one.cpu_seconds:.1f}",
            _bytes(one.read),
            _bytes(one.written),
            _command(one.command, one.model),
        )
        for one in found.processes
    ]
    return [
        [sums],
        [_translated(_PEAK_HEADS), *_peaks(found.peak, is_cut_off=found.cut_off)],
        [_translated(_PROCESS_HEADS), *processes],
    ]


def _peaks(peak: Peak, *, is_cut_off: bool) -> Iterator[Sequence[str]]:
    kernel, torch, samples = (
        translate(mark("counted by the kernel")),
        translate(mark("counted by torch")),
        translate(mark("highest sample")),
    )
    of_one = samples if is_cut_off else kernel
    yield translate(mark("memory of one process")), _bytes(peak.rss), of_one
    yield translate(mark("memory of all watched")), _bytes(peak.rss_together), samples
    if peak.cgroup is not None:
        yield translate(mark("memory of the control group")), size(peak.cgroup), kernel
    if peak.cpu is not None:
        yield translate(mark("CPU (100 % is one core)")), f"{peak.cpu:.0f} %", samples
    if peak.vram is not None and peak.vram_together is not None:
        yield translate(mark("GPU memory of one process")), size(peak.vram), samples
        yield translate(mark("GPU memory of all watched")), size(peak.vram_together), samples
    for device, found in peak.torch.items():
        text = mark("allocated on {device}")
        yield translate(text, device=device), size(found.allocated), torch
        text = mark("reserved on {device}")
        yield translate(text, device=device), size(found.reserved), torch
    for gpu in peak.gpus:
        text = mark("memory of GPU {number}, by everybody")
        yield translate(text, number=gpu.index), size(gpu.used), samples


def _machine(sample: Sample) -> str:
    machine = sample.machine
    text = mark("memory {used} of {total}")
    parts = [translate(text, used=size(machine.memory), total=size(machine.memory_total))]
    if machine.cpu is not None:
        parts.insert(0, translate(mark("CPU {percent} %"), percent=f"{machine.cpu:.0f}"))
    if machine.received is not None and machine.sent is not None:
        text = mark("network {received}/s received, {sent}/s sent")
        parts.append(translate(text, received=size(machine.received), sent=size(machine.sent)))
    return "  ".join([translate(mark("Machine:")), *parts])


def _gpu(gpu: GpuUse) -> str:
    busy = "-" if gpu.busy is None else f"{gpu.busy:.0f}"
    text = mark("GPU {number} {name}: {percent} %, {used} of {total}")
    return translate(
        text,
        number=gpu.index,
        name=printable(gpu.name),
        percent=busy,
        used=size(gpu.used),
        total=size(gpu.total),
    )


def _row(use: ProcessUse) -> Sequence[str]:
    return (
        str(use.pid),
        user(use.uid),
        _percent(use.cpu),
        size(use.rss),
        _bytes(use.pss),
        _percent(use.gpu),
        _bytes(use.vram),
        _bytes(use.read),
        _bytes(use.written),
        _command(use.command, use.model),
    )


def _command(command: str, model: str | None) -> str:
    shown = printable(command)
    return f"[{printable(model)}] {shown}"[:_COMMAND_SHOWN] if model else shown[:_COMMAND_SHOWN]


def _weight(use: ProcessUse) -> tuple[int, float, int]:
    return use.vram or 0, use.cpu or 0.0, use.rss


def _translated(heads: Sequence[str]) -> Sequence[str]:
    return [translate(head) for head in heads]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _bytes(value: float | None) -> str:
    return "-" if value is None else size(value)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
