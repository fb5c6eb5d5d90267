"""A real worker of two ranks, as the daemon launches it: its pictures, its faults, its end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness.daemon import until
from zhcache.protocol import frames
from zhcache.protocol import residency as r

pytest.importorskip("torch", reason="torch is not installed")

# Of 255: eight bits of pictures that agree to 1e-4.
CLOSE = 1


def lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def apart(one: bytes, other: bytes) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_two_ranks_draw_what_one_worker_draws_and_go_on_after_an_error(start):
    alone, two = start(devices=()), start()
    assert two.loaded.memory_report.startswith("cfg over 2 devices: ")
    assert "UNet2DConditionModel" in two.loaded.memory_report
    alone.draw()
    for _ in range(2):
        assert isinstance(two.draw(), r.Returned)
        assert apart(alone.pixels, two.pixels) <= CLOSE
        failed = two.draw(num_inference_steps="many")
        assert failed.error.code == "usage", failed
    refused = two.draw(height=65)
    assert refused.error.code == "usage"


def test_cancelled_call_stops_all_ranks_and_the_next_one_is_whole(start):
    two = start()
    two.draw()
    pixels = two.pixels
    two.begin(number=2, num_inference_steps=900)
    two.until(r.Step)
    frames.send(two.worker.line, r.Cancel(id=2))
    assert two.until(r.Failed).error.code == "cancelled"
    assert isinstance(two.draw(number=3), r.Returned)
    assert two.pixels == pixels


def test_killed_rank_ends_the_call_with_its_name_and_leaves_nothing_behind(start):
    two = start()
    (other,) = two.ranks()
    two.begin(num_inference_steps=900)
    two.until(r.Step)
    os.kill(other, signal.SIGKILL)
    error = two.until(r.Failed).error
    assert error.code == "worker_died"
    assert "rank 1 of 2, on cpu" in error.message
    assert "call again" in error.hint
    assert two.worker.wait(60.0) == "ended with status 1"


def test_further_ranks_die_with_the_first(start):
    two = start()
    (other,) = two.ranks()
    os.kill(two.worker.pid, signal.SIGKILL)
    assert until(lambda: not lives(other), "the other rank has ended")


def test_family_that_cannot_be_split_is_refused_with_a_next_step(start):
    error = start("lumina").loaded.error
    assert error.code == "usage"
    assert "Lumina2Pipeline" in error.message
    assert "replicate" in error.hint
