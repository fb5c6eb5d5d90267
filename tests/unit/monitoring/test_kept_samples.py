"""Samples in bounded memory, evenly spaced whatever the length of the span."""

import itertools

import pytest

from zhcache.monitoring.kept import Kept
from zhcache.monitoring.records import MachineUse, ProcessUse, Sample


def sample(number, processes=1):
    rows = [ProcessUse(pid=n, command="x", uid=0, rss=1) for n in range(processes)]
    machine = MachineUse(memory=1, memory_total=2)
    return Sample(schema=1, time=0.0, elapsed=float(number), machine=machine, processes=rows)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100, 1000])
def test_spacing_is_even_and_the_number_bounded(count):
    kept = Kept(max_samples=8)
    for number in range(count):
        kept.add(sample(number))
    moments = [one.elapsed for one in kept.samples]
    steps = {b - a for a, b in itertools.pairwise(moments)}
    assert moments[0] == 0.0
    assert len(moments) <= 8
    assert len(steps) <= 1
    assert moments[-1] > count - 1 - (max(steps) if steps else 1)
    assert kept.count == count


def test_many_processes_count_as_many_rows():
    kept = Kept(max_samples=1000, max_rows=100)
    for number in range(50):
        kept.add(sample(number, processes=9))
    assert sum(1 + len(one.processes) for one in kept.samples) <= 100
