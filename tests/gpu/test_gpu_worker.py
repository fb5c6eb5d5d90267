"""Workers forked into their sandbox reach the GPU: off says whether the sandbox is what fails."""

from __future__ import annotations

import os
import shutil
from collections import deque

import pytest

import zhcache
from zhcache.protocol import frames
from zhcache.protocol.residency import (
    Call,
    Fill,
    Filled,
    FromFillWorker,
    FromResidentWorker,
    Load,
    Loaded,
    Progress,
    Returned,
    Step,
    Taken,
)
from zhcached.residency.launch.launch import Direct
from zhcached.residency.nvml import gpus
from zhcached.workers import sandbox

REPO = "test/tiny"
WAIT_S = 120.0


@pytest.fixture(params=["on", "off"])
def direct(cuda, request, tmp_path, pipeline_dir, monkeypatch):
    """A launcher whose workers may read a pipeline, and that pipeline's folder."""
    monkeypatch.setenv(sandbox.SWITCH, request.param)
    (tmp_path / "blobs").mkdir()
    folder = tmp_path / "hub" / "pipeline"
    shutil.copytree(pipeline_dir, folder)
    launcher = Direct(tmp_path)
    yield launcher, str(folder)
    launcher.close()


def hear(worker, kind):
    """Returns the next frame that is an answer, and its descriptors."""
    worker.line.settimeout(WAIT_S)
    while True:
        answer, fds = frames.receive(worker.line, kind)
        if not isinstance(answer, Progress | Step | Taken):
            return answer, deque(fds)


def test_gpu_worker_fills_memory_of_the_card(direct):
    launcher, folder = direct
    worker = launcher.launch("fill", "a GPU")
    frames.send(worker.line, Fill(folder=folder, components=["unet"], device=gpus()[0].uuid))
    filled, fds = hear(worker, FromFillWorker)
    assert isinstance(filled, Filled), filled
    assert filled.checksum
    os.close(fds.pop())
    assert worker.wait(WAIT_S) == "ended with status 0"
    worker.line.close()


def test_gpu_resident_worker_calls_its_pipeline(direct):
    launcher, folder = direct
    worker = launcher.launch("resident", "a GPU")
    try:
        frames.send(worker.line, Load(folder=folder, device=gpus()[0].uuid))
        loaded, _ = hear(worker, FromResidentWorker)
        assert isinstance(loaded, Loaded), loaded
        call = Call(id=1, arguments={"prompt": "x", "num_inference_steps": 1}, seed=1)
        frames.send(worker.line, call)
        returned, fds = hear(worker, FromResidentWorker)
        assert isinstance(returned, Returned), returned
        while fds:
            os.close(fds.pop())
    finally:
        worker.kill()
        worker.wait(WAIT_S)
        worker.line.close()


def test_gpu_memory_of_a_call_is_read_phase_by_phase(cuda):
    import torch

    from zhcached.workers.taking import highest_on

    device = torch.device(cuda)
    kept = torch.zeros(64 * 2**20, dtype=torch.uint8, device=device)
    highest = highest_on(device)
    for count in (32 * 2**20, 8 * 2**20):
        torch.zeros(count, dtype=torch.uint8, device=device)
        assert highest() == count
    assert highest() == 0
    del kept
    # Less than there was at first is no less than nothing.
    assert highest() == 0


def test_gpu_daemon_learns_what_a_call_took(cuda, served, painter):
    painter("resident", cuda, REPO, served).ask("draw")
    with zhcache.Client(served.socket) as client:
        (seen,) = client.weights(REPO).seen
        told = client.plan(REPO, devices=cuda)
    pixels = seen.batch * seen.width * seen.height
    assert seen.calls == 1
    # Pixels in three colours are there at the end, whatever the autoencoder's width.
    assert seen.decode >= 3 * 2 * pixels
    assert 0 < seen.step < 2**30
    assert f"seen at {seen.width}x{seen.height}" in told.reason
