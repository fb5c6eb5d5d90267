"""What monitoring finds, as it stands in memory and as JSON lines.

A field that could not be had is left out of the JSON and is None in Python: never a zero that
pretends. Bytes are bytes, rates are bytes a second, ``cpu`` of a process is in percent of one core.
"""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of what is kept in a log. Fields that a later version adds are ignored by this one."""


class ProcessUse(Record):
    """One process in one sample.

    Attributes:
        pid: Its id.
        command: Its command line, its beginning.
        uid: Its owner.
        cpu: Over the time since the sample before; absent in the first.
        rss: Resident memory now, shared pages included.
        pss: The same with each shared page divided by its users. Costs much to find out, so it is
            up to some seconds old, and absent for other users' processes.
        read: From the disk, not from the page cache. Absent for other users' processes.
        written: To the disk.
        gpu: Percent of its GPUs' time, summed over GPUs; absent where the driver does not say.
        vram: GPU memory, summed over GPUs.
        model: What a worker of the daemon holds.
    """

    pid: int
    command: str
    uid: int
    rss: int
    cpu: float | None = None
    pss: int | None = None
    read: float | None = None
    written: float | None = None
    gpu: float | None = None
    vram: int | None = None
    model: str | None = None


class GpuUse(Record):
    """One GPU, or one MIG slice, in one sample. ``busy`` is in percent of the time."""

    uuid: str
    index: int
    name: str
    total: int
    used: int
    busy: float | None = None


class MachineUse(Record):
    """The whole machine in one sample.

    ``cpu`` is in percent of all cores. The network is that of the machine's own interfaces: what
    a single process sends is not to be had without being root.
    """

    memory: int
    memory_total: int
    cpu: float | None = None
    received: float | None = None
    sent: float | None = None


class Sample(Record, tag_field="kind", tag="sample"):
    """What there was at one moment.

    ``time`` is Unix time, ``elapsed`` seconds since the start. ``span`` tells the samples of one
    monitor from those of another that writes the same log.
    """

    schema: int
    time: float
    elapsed: float
    machine: MachineUse
    processes: list[ProcessUse]
    gpus: list[GpuUse] = []
    span: str = ""


class ProcessPeak(Record):
    """One process over the whole time. ``rss`` is its true peak, ``vram`` its highest sample."""

    pid: int
    command: str
    uid: int
    rss: int
    cpu_seconds: float = 0.0
    vram: int | None = None
    read: int | None = None
    written: int | None = None
    model: str | None = None


class TorchPeak(Record):
    """A device's true peaks as torch's allocator counted them in this process."""

    allocated: int
    reserved: int


class GpuPeak(Record):
    """A device's highest samples, whoever used it."""

    uuid: str
    index: int
    used: int
    total: int
    busy: float | None = None


class Peak(Record):
    """The highest of everything.

    Attributes:
        rss: Of any one process, true: the kernel keeps it, also for what lay between two samples.
            Absent where no process was seen.
        rss_together: Of all watched processes at once, by samples; shared pages count for each.
        cgroup: Of the control group that this process is in, true; absent where the kernel does
            not say it, or it was reached before.
        cpu: Of all watched processes at once, in percent of one core, by samples.
        vram: Of any one process, by samples.
        vram_together: Of all watched processes at once, by samples.
        torch: By device, true; where this process uses torch with a GPU.
        gpus: By device, by samples.
    """

    rss: int | None = None
    rss_together: int | None = None
    cgroup: int | None = None
    cpu: float | None = None
    vram: int | None = None
    vram_together: int | None = None
    torch: dict[str, TorchPeak] = {}
    gpus: list[GpuPeak] = []


class Summary(Record, tag_field="kind", tag="summary"):
    """The whole time in one record, the last line of a log that was ended.

    ``read`` and ``written`` are bytes from and to the disk by the watched processes, ``received``
    and ``sent`` bytes over the machine's network. ``processes`` are those with the most memory.
    ``span`` is that of its samples. ``cut_off``: made of a log that lacks its end, so that peaks of
    memory are by samples as well.
    """

    schema: int
    seconds: float
    samples: int
    peak: Peak
    processes: list[ProcessPeak]
    cpu_seconds: float = 0.0
    read: int | None = None
    written: int | None = None
    received: int | None = None
    sent: int | None = None
    span: str = ""
    cut_off: bool = False


Line = Sample | Summary
