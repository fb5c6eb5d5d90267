"""A worker that makes its pipeline fit: the same image, and it says what it reckoned."""

import socket
import threading

import pytest

from zhcache.pipeline.choose import taught
from zhcache.pipeline.needs import form
from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcache.protocol.placement import SeenCall, WeightsList, WeightsPart
from zhcache.resident.decode import Decoder
from zhcached.workers import resident
from zhcached.workers.loading import formed


def answers(pipeline_dir, memory, *calls):
    """Returns what a worker says until it has loaded, and then to each call, or that it cannot."""
    ours, theirs = socket.socketpair()
    load = r.Load(folder=str(pipeline_dir), device="cpu", memory=memory, variant="fp16")
    thread = threading.Thread(target=resident.run, args=(theirs, load, []), daemon=True)
    thread.start()
    for call in calls:
        frames.send(ours, call)
    said = []
    while len(said) <= len(calls):
        event, fds = frames.receive(ours, r.FromResidentWorker)
        if isinstance(event, (r.Loaded, r.Returned, r.Failed)):
            said.append((event, fds))
        if isinstance(event, r.Failed):
            break
    ours.close()
    thread.join(30)
    theirs.close()
    return said


@pytest.mark.parametrize("memory", ["auto", "low", str(2**33)])
def test_what_was_chosen_is_told_and_the_image_is_the_same(pipeline_dir, stock, memory):
    import torch

    call = r.Call(id=1, arguments={"prompt": "x", "num_inference_steps": 2}, seed=3)
    (loaded, _), (returned, fds) = answers(pipeline_dir, memory, call)
    assert "variant fp16" in loaded.memory_report
    assert "GiB free" in loaded.memory_report
    made = Decoder(fds).decode(returned.fields["images"])[0]
    frames.close_all(fds)
    seed = torch.Generator("cpu").manual_seed(3)
    assert made.tobytes() == stock("x", num_inference_steps=2, generator=seed).images[0].tobytes()


def test_what_does_not_fit_is_told(pipeline_dir):
    ((failed, _),) = answers(pipeline_dir, "1000")
    assert failed.error.code == "no_space"
    assert "at least" in failed.error.message


def test_nothing_is_reckoned_unasked(pipeline_dir):
    ((loaded, _),) = answers(pipeline_dir, None)
    assert loaded.memory_report == ""


def test_what_calls_took_is_reckoned_with_as_in_an_attached_pipeline(pipeline_dir):
    taken = SeenCall(width=64, height=64, step=2**30, decode=2**31)
    part = WeightsPart("diffusers", "UNet2DConditionModel", 10, config={"sample_size": 8})
    heard = WeightsList("org/pipe", "c" * 40, None, {"unet": part}, seen=[taken])
    load = r.Load(
        folder=str(pipeline_dir), device="x", memory="auto", variant="fp16", weights=heard
    )
    found = formed(pipeline_dir, load, is_cuda=True)
    assert found.needs == taught(form(pipeline_dir, "fp16"), heard).needs
    assert found.needs.decode == 2**31
    assert "seen at 64x64" in found.note
    assert formed(pipeline_dir, load, is_cuda=False).needs is None
