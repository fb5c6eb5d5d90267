"""The log: whole lines, several spans and programs, and what a kill leaves of it."""

import threading

import msgspec
import pytest

import zhcache
from zhcache.errors import NotFound, NotPermitted, UsageError, ZhcacheError
from zhcache.monitoring.log import Log, read
from zhcache.monitoring.records import MachineUse, Sample, Summary
from zhcache.monitoring.replay import samples_of, summary_of


def sample(elapsed):
    machine = MachineUse(memory=1, memory_total=2)
    return Sample(schema=1, time=elapsed, elapsed=elapsed, machine=machine, processes=[])


def test_a_span_is_read_as_it_was_written(tmp_path):
    log = tmp_path / "log"
    with zhcache.monitor(log=log, by_hand=True) as m:
        m.tick()
    lines = read(log)
    assert samples_of(lines) == m.samples
    assert summary_of(lines) == m.summary()


def test_the_last_of_several_spans_is_read(tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        with zhcache.monitor(log=log, by_hand=True) as m:
            m.tick()
    assert samples_of(read(log)) == m.samples


def test_a_line_that_was_cut_off_spoils_neither_the_next_nor_the_rest(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(msgspec.json.encode(sample(0.0)) + b'\n{"kind":"sample","sch')
    writer = Log(log, warn=lambda error: None)
    writer.write(sample(0.5))
    writer.close()
    assert [one.elapsed for one in samples_of(read(log))] == [0.0, 0.5]


def test_a_span_without_its_end_is_summed_up_by_its_samples(tmp_path):
    log = tmp_path / "log"
    with zhcache.monitor(log=log, by_hand=True) as m:
        m.tick()
        m.tick()
        before = read(log)
        found = summary_of(before)
    assert not any(isinstance(line, Summary) for line in before)
    assert found.samples == 2
    assert found.peak.rss == max(one.rss for s in m.samples[:2] for one in s.processes)
    assert found.processes[0].pid == m.samples[0].processes[0].pid


def test_fields_of_a_later_version_are_passed_over(tmp_path):
    log = tmp_path / "log"
    text = msgspec.json.encode(sample(0.0))
    log.write_bytes(text[:-1] + b',"later":1}\n')
    assert len(read(log)) == 1


def test_lines_of_several_writers_stay_whole(tmp_path):
    log = tmp_path / "log"

    def write():
        writer = Log(log, warn=lambda error: None)
        for number in range(200):
            writer.write(sample(float(number)))
        writer.close()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    decoder = msgspec.json.Decoder(Sample)
    assert len([decoder.decode(line) for line in log.read_bytes().splitlines()]) == 600


@pytest.mark.parametrize(
    ("content", "kind"), [(b"", UsageError), (b"no log\n", UsageError), (None, NotFound)]
)
def test_what_is_no_log_is_told(tmp_path, content, kind):
    if content is not None:
        (tmp_path / "log").write_bytes(content)
    with pytest.raises(kind, match="log"):
        read(tmp_path / "log")


def test_a_log_that_cannot_be_opened_is_told_before_anything_is_measured(tmp_path):
    with pytest.raises(ZhcacheError, match="Is a directory"):
        zhcache.monitor(log=tmp_path).__enter__()
    with pytest.raises(NotFound):
        zhcache.monitor(log=tmp_path / "none" / "log").__enter__()
    with pytest.raises(NotPermitted):
        zhcache.monitor(log="/sys/kernel/fscaps").__enter__()
