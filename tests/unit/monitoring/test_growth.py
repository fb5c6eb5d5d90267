"""What processes used between two looks, with those that ended on the way."""

import pytest

from zhcache.monitoring.growth import growth
from zhcache.monitoring.procfs import Reading


def reading(pid, parent=1, *, cpu=0.0, reaped=0.0, read=0, started=None):
    return Reading(
        pid=pid,
        parent=parent,
        started=pid if started is None else started,
        name="x",
        cpu=cpu,
        cpu_reaped=reaped,
        rss=0,
        uid=0,
        read=read,
        written=0,
    )


def among(*readings):
    return {one.pid: one for one in readings}


def total(grown):
    return sum(one.cpu + one.cpu_of_ended for one in grown.values())


def test_a_process_used_the_difference():
    grown = growth(among(reading(5, cpu=1.0, read=100)), among(reading(5, cpu=1.5, read=400)))
    assert (grown[5].cpu, grown[5].read) == (0.5, 300)


def test_a_new_process_used_all_it_has():
    grown = growth(among(), among(reading(5, cpu=0.3, read=7)))
    assert (grown[5].cpu, grown[5].read) == (0.3, 7)


def test_an_id_used_again_is_another_process():
    grown = growth(among(reading(5, cpu=9.0)), among(reading(5, cpu=0.2, started=99)))
    assert grown[5].cpu == 0.2


def test_a_child_that_ended_is_not_counted_twice_and_its_last_breath_is():
    before = among(reading(5), reading(6, 5, cpu=2.0, read=1000))
    # Since then it used a quarter of a second more, and read 24 bytes.
    now = among(reading(5, reaped=2.25, read=1024))
    grown = growth(before, now)
    assert (grown[5].cpu, grown[5].cpu_of_ended, grown[5].read) == (0.0, 0.25, 24)


def test_a_child_and_its_child_that_ended_together():
    before = among(reading(5), reading(6, 5, cpu=1.0, reaped=0.5), reading(7, 6, cpu=2.0))
    now = among(reading(5, reaped=4.0))
    assert total(growth(before, now)) == pytest.approx(0.5)


def test_a_child_never_seen_is_what_its_parent_tells():
    grown = growth(among(reading(5)), among(reading(5, reaped=0.7, read=11)))
    assert (grown[5].cpu_of_ended, grown[5].read) == (0.7, 11)


def test_a_child_nobody_waited_for_takes_nothing_off():
    before = among(reading(5, cpu=1.0), reading(6, 5, cpu=2.0, read=50))
    grown = growth(before, among(reading(5, cpu=1.5, read=20)))
    assert (grown[5].cpu, grown[5].cpu_of_ended, grown[5].read) == (0.5, 0.0, 0)


def test_closed_counters_are_unknown_and_not_nought():
    open_now = reading(5, read=10**9)
    closed = Reading(5, 1, 5, "x", 0.0, 0.0, 0, uid=0)
    assert growth(among(closed), among(open_now))[5].read is None
    assert growth(among(open_now), among(closed))[5].read is None


def test_parents_in_a_ring_end_the_search():
    # Ids that were used again may look so.
    before = among(reading(5, 6), reading(6, 5), reading(7, 1))
    assert growth(before, among(reading(7, 1)))[7].cpu_of_ended == 0.0
