"""A stand-in beside its calls: steps, cancelling, threads, forks, its lease, what it refuses."""

import copy
import gc
import math
import os
import signal
import threading
import time

import numpy
import pytest
from PIL import ImageChops

from harness.daemon import until
from zhcache.errors import DaemonUnreachable, UsageError, VersionMismatch, ZhcacheError
from zhcache.pipeline.load import load_pipeline
from zhcache.protocol.residency import Step
from zhcache.resident import conversation
from zhcache.resident.open import open_resident

FAST = {"num_inference_steps": 2}


def same(one, other):
    return all(
        ImageChops.difference(a, b).getbbox() is None for a, b in zip(one, other, strict=True)
    )


def test_callback_sees_every_step(pipe):
    seen = []

    def look(pipeline, step, timestep, tensors):
        seen.append((step, timestep))
        assert pipeline is pipe
        with pytest.raises(UsageError, match="latents stays in the worker"):
            tensors["latents"]
        return {}

    pipe("x", num_inference_steps=3, callback_on_step_end=look)
    assert [step for step, _ in seen] == [0, 1, 2]
    assert seen[0][1] > seen[1][1] > seen[2][1]


def test_callback_that_changes_tensors_is_refused(front, pipe):
    with pytest.raises(UsageError, match="callback returned latents"):
        pipe("x", callback_on_step_end=lambda *_: {"latents": 1}, **FAST)
    assert len(pipe("x", **FAST).images) == 1


def test_error_of_a_callback_cancels_the_call(front, pipe):
    def fail(*_):
        raise FileNotFoundError("the callback's own")

    with pytest.raises(FileNotFoundError, match="own"):
        pipe("x", num_inference_steps=500, callback_on_step_end=fail)
    assert front.cancelled.wait(20)
    assert len(pipe("x", **FAST).images) == 1
    assert len(front.requests) == 1  # over the same connection, which is the lease


def test_interrupt_cancels_the_call_and_the_next_one_works(front, pipe):
    begun = threading.Event()

    def interrupt():
        begun.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pipe("x", num_inference_steps=900, callback_on_step_end=lambda *_: begun.set())
        time.sleep(20)
    assert front.cancelled.wait(20)
    after = pipe("x", seed=1, **FAST).images
    assert same(after, pipe("x", seed=1, **FAST).images)
    assert len(front.requests) == 1
    assert time.monotonic() - began < 60


def test_daemon_that_was_restarted_between_calls_is_found_again(front, pipe):
    before = pipe("x", seed=1, **FAST).images
    front.hang_up()
    assert same(pipe("x", seed=1, **FAST).images, before)
    # It was opened again, at the same commit whatever the branch says now.
    assert [request.revision for request in front.requests] == [None, "c" * 40]


def test_interrupt_within_a_frame_costs_the_connection_alone(front, pipe, monkeypatch):
    real = conversation.Conversation._receive

    def interrupted(talk):
        event, fds = real(talk)
        # One that only waits is dropped where it waits, and no worker hears of it.
        if isinstance(event, Step):
            raise KeyboardInterrupt
        return event, fds

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(conversation.Conversation, "_receive", interrupted)
        pipe("x", num_inference_steps=500, callback_on_step_end=lambda *_: None)
    assert front.cancelled.wait(20)
    assert len(pipe("x", **FAST).images) == 1
    assert len(front.requests) == 2


def test_daemon_that_goes_away_in_a_call_is_told(front, pipe):
    with pytest.raises(DaemonUnreachable, match="went away"):
        pipe("x", num_inference_steps=400, callback_on_step_end=lambda *_: front.hang_up())
    assert len(pipe("x", **FAST).images) == 1


def test_threads_may_share_a_stand_in(pipe):
    alone = {seed: pipe("x", seed=seed, **FAST).images for seed in range(3)}
    together = {}
    threads = [
        threading.Thread(target=lambda s=s: together.update({s: pipe("x", seed=s, **FAST).images}))
        for s in alone
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(same(together[seed], images) for seed, images in alone.items())


def test_forked_child_has_a_connection_of_its_own(front, pipe):
    import subprocess
    import sys

    script = """
import os, sys
from zhcache.resident.open import open_resident
pipe = open_resident("org/pipe")
mine = pipe("x", seed=1, num_inference_steps=2).images[0].tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if pipe("x", seed=1, num_inference_steps=2).images[0].tobytes() == mine else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert pipe("x", seed=1, num_inference_steps=2).images[0].tobytes() == mine
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(front.requests) == 3  # this test's own, the parent's, the child's


def test_released_pipeline_refuses_calls_and_its_connection_ends(front):
    with open_resident("org/pipe") as pipe:
        assert len(pipe("x", **FAST).images) == 1
    with pytest.raises(UsageError, match="was released"):
        pipe("x", **FAST)
    pipe.release()


def test_release_by_another_thread_ends_the_call_that_runs(front):
    pipe = open_resident("org/pipe")
    begun, ended = threading.Event(), []

    def work():
        try:
            pipe("x", num_inference_steps=900, callback_on_step_end=lambda *_: begun.set())
        except ZhcacheError as error:
            ended.append(error.code)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(20)
    pipe.release()
    thread.join(20)
    assert (thread.is_alive(), ended) == (False, ["cancelled"])
    assert front.cancelled.wait(20)
    assert len(front.requests) == 1


def test_call_from_a_callback_of_its_own_is_refused(pipe):
    def again(*_):
        pipe("y", **FAST)

    with pytest.raises(UsageError, match="from a callback"):
        pipe("x", num_inference_steps=900, callback_on_step_end=again)
    assert len(pipe("x", **FAST).images) == 1


def test_connection_ends_when_the_stand_in_is_collected(front):
    pipe = open_resident("org/pipe")
    theirs = front.clients[-1]
    del pipe
    gc.collect()
    assert until(lambda: theirs.fileno() < 0, "the front saw the end")


def test_what_only_attach_can_do_says_so(pipe):
    for name in ("unet", "to", "enable_model_cpu_offload", "load_lora_weights"):
        with pytest.raises(UsageError, match=f"no {name}.*mode='attach'"):
            getattr(pipe, name)
        assert not hasattr(pipe, name)
    with pytest.raises(UsageError, match="scheduler cannot be set"):
        pipe.scheduler = None
    with pytest.raises(UsageError):
        copy.deepcopy(pipe)
    with pytest.raises(UsageError, match="class_name=3"):
        pipe.using(3)
    assert pipe.class_name == "StableDiffusionPipeline"
    assert pipe.device == "cpu"
    assert "prompt" in pipe.parameters


def test_empty_device_list_an_old_daemon_and_no_route_are_refused(front):
    with pytest.raises(UsageError, match="device="):
        open_resident("org/pipe", device=[])
    with pytest.raises(VersionMismatch, match="several devices"):
        open_resident("org/pipe", device=["cpu", "cpu"])
    with pytest.raises(UsageError, match="chinese="):
        open_resident("org/pipe", chinese="english")


def test_chinese_is_refused_where_native_was_asked_and_the_encoder_reads_none(front):
    with open_resident("org/pipe", device="cpu", chinese="native") as pipe:
        with pytest.raises(UsageError, match="native"):
            pipe("山水画", **FAST)
        assert len(pipe("hills", **FAST).images) == 1


def test_time_without_end_and_seeds_of_any_kind_are_taken(front):
    with load_pipeline("org/pipe", mode="resident", device="cpu", timeout=math.inf) as pipe:
        texts = ["a hill", "a house"]
        listed = pipe(texts, seed=[1, 2], **FAST).images
        assert same(pipe(texts, seed=range(1, 3), **FAST).images, listed)
        assert same(pipe(texts, seed=numpy.array([1, 2]), **FAST).images, listed)
        front.calls.clear()
        with pytest.raises(UsageError, match="not None"):
            pipe(texts, seed=[1, None], **FAST)
        with pytest.raises(UsageError, match="list of 3"):
            pipe(texts, seed=range(3), **FAST)
        assert not front.calls
