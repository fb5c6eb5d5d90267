"""The log: whole lines, several spans and programs, and what a kill leaves of it."""

import os
import threading

import msgspec
import pytest

import zhcache
from zhcache.cli import vitals
from zhcache.errors import NotFound, NotPermitted, UsageError, ZhcacheError
from zhcache.monitoring.kept import MAX_SAMPLES
from zhcache.monitoring.log import Log, read
from zhcache.monitoring.records import MachineUse, ProcessUse, Sample


def sample(elapsed):
    machine = MachineUse(memory=1, memory_total=2)
    return Sample(schema=1, time=elapsed, elapsed=elapsed, machine=machine, processes=[])


def used(elapsed, rss):
    found = sample(elapsed)
    found.processes = [ProcessUse(pid=5, command="x", uid=0, rss=rss, cpu=50.0)]
    return found


def test_a_span_is_read_as_it_was_written(tmp_path):
    log = tmp_path / "log"
    with zhcache.monitor(log=log, by_hand=True) as m:
        m.tick()
    found = read(log)
    assert found.samples == m.samples
    assert found.summary == m.summary()


def test_the_last_of_several_spans_is_read(tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        with zhcache.monitor(log=log, by_hand=True) as m:
            m.tick()
    assert read(log).samples == m.samples


def test_a_line_that_was_cut_off_spoils_neither_the_next_nor_the_rest(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(msgspec.json.encode(sample(0.0)) + b'\n{"kind":"sample","sch')
    writer = Log(log, warn=lambda error: None)
    writer.write(sample(0.5))
    writer.close()
    assert [one.elapsed for one in read(log).samples] == [0.0, 0.5]


def test_a_span_without_its_end_is_summed_up_by_its_samples(tmp_path):
    log = tmp_path / "log"
    with zhcache.monitor(log=log, by_hand=True) as m:
        m.tick()
        m.tick()
        found = read(log).summary
    assert found.cut_off
    assert found.samples == 2
    assert found.peak.rss == max(one.rss for s in m.samples[:2] for one in s.processes)
    assert found.processes[0].pid == m.samples[0].processes[0].pid


def test_fields_of_a_later_version_are_passed_over(tmp_path):
    log = tmp_path / "log"
    text = msgspec.json.encode(sample(0.0))
    log.write_bytes(text[:-1] + b',"later":1}\n')
    assert len(read(log).samples) == 1


def test_spans_that_were_written_side_by_side_are_told_apart(tmp_path):
    log = tmp_path / "log"
    with zhcache.monitor(log=log, by_hand=True) as one, zhcache.monitor(log=log, by_hand=True) as m:
        for _ in range(3):
            one.tick()
            m.tick()
        assert read(log).samples == m.samples
    # The outer one ends last, with more than the inner one had by then.
    assert read(log).samples == one.samples
    assert read(log).summary == one.summary()


def test_a_long_log_is_read_in_bounded_memory(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as file:
        for number in range(MAX_SAMPLES + 1):
            file.write(msgspec.json.encode(used(float(number), number)) + b"\n")
    found = read(log)
    assert len(found.samples) <= MAX_SAMPLES // 2 + 1
    assert found.summary.samples == MAX_SAMPLES + 1
    assert found.summary.peak.rss == MAX_SAMPLES


def test_what_a_span_that_was_cut_off_used_is_not_told_as_nothing(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(msgspec.json.encode(used(0.5 * i, 7)) for i in range(5)) + b"\n")
    found = read(log).summary
    assert found.cpu_seconds == pytest.approx(1.0)
    assert found.processes[0].cpu_seconds == pytest.approx(1.0)
    _, peaks, _ = vitals.summary_tables(found)
    assert peaks[1][1:] == ("7 B", "highest sample")


def test_a_time_that_no_calendar_knows_is_no_sample(tmp_path):
    log = tmp_path / "log"
    strange = sample(1.0)
    strange.time = 1e300
    log.write_bytes(msgspec.json.encode(sample(0.0)) + b"\n" + msgspec.json.encode(strange))
    assert len(read(log).samples) == 1


def test_a_pipe_that_nobody_empties_holds_nothing_up(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    told = []
    writer = Log(tmp_path / "pipe", warn=told.append)

    def fill():
        while not writer.lost:
            writer.write(sample(0.0))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert len(told) == 1
    writer.close()


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
