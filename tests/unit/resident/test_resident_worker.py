"""The worker on its line: what it is told, what it answers, and what may not end it."""

import itertools
import logging
import os
import re
import socket
import threading
from types import SimpleNamespace

import pytest
import torch

from harness.spoilt import GAPS, WAYS, spoilt
from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcache.protocol.failure import to_error
from zhcache.protocol.placement import SeenCall
from zhcache.resident.decode import Decoder
from zhcache.resident.encode import Encoder
from zhcached.workers import calling, failures, resident
from zhcached.workers.schedulers import Schedulers
from zhcached.workers.weights import Weights


class Talk:
    """One worker on a thread, and the front's end of its line."""

    def __init__(self, folder, **load):
        self.line, theirs = socket.socketpair()
        self.line.settimeout(60)
        request = r.Load(folder=str(folder), device="cpu", **load)

        def work():
            with theirs:
                resident.run(theirs, request)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def hear(self, *kinds):
        """Returns the next event of one of ``kinds``."""
        while True:
            event, fds = frames.receive(self.line, r.FromResidentWorker)
            if isinstance(event, kinds):
                return event, fds
            frames.close_all(fds)

    def ask(self, number, fds=(), **call):
        arguments = {"prompt": "x", "num_inference_steps": 2} | call.pop("arguments", {})
        frames.send(self.line, r.Call(id=number, arguments=arguments, **call), fds)

    def end(self):
        self.line.close()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def talk(pipeline_dir):
    made = Talk(pipeline_dir)
    made.hear(r.Loaded)
    yield made
    made.end()


def test_worker_says_that_it_begins_a_call_before_anything_else_of_it(talk):
    talk.ask(1, wants_steps=True)
    begun, _ = talk.hear(r.Taken, r.Step, r.Returned)
    assert (type(begun), begun.id) == (r.Taken, 1)
    talk.hear(r.Returned)


def test_worker_says_what_a_call_took_before_its_answer(pipeline_dir, monkeypatch):
    # Where a GPU's memory would be read.
    numbers = itertools.count(1000)
    monkeypatch.setattr(resident, "_reading", lambda *_: lambda: next(numbers))
    talk = Talk(pipeline_dir)
    talk.hear(r.Loaded)
    talk.ask(1, arguments={"width": 32, "height": 64})
    took, _ = talk.hear(r.Took, r.Returned)
    # Read when it began, after its first step, its second, at the end.
    seen = SeenCall(width=32, height=64, step=1002, decode=1003)
    assert took == r.Took(id=1, seen=seen)
    talk.hear(r.Returned)
    talk.ask(2, arguments={"output_type": "latent"})
    answer, _ = talk.hear(r.Took, r.Returned)
    assert isinstance(answer, r.Returned)
    talk.end()


def test_worker_says_what_it_holds(pipeline_dir, stock):
    talk = Talk(pipeline_dir)
    loaded, _ = talk.hear(r.Loaded)
    weights = sum(
        p.nbytes for c in ("unet", "vae", "text_encoder") for p in getattr(stock, c).parameters()
    )
    assert (loaded.class_name, loaded.bytes) == ("StableDiffusionPipeline", weights)
    assert loaded.parameters[0] == "prompt"
    talk.end()


def test_loading_that_fails_is_told(tmp_path, pipeline_dir):
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    for folder, load, code in (
        (tmp_path, {}, "usage"),
        (pipeline_dir, {"device": "GPU-of-nobody"}, "usage"),
        (pipeline_dir, {"attention": "of_my_own"}, "usage"),
        (pipeline_dir, {"attention": "flash_hub"}, "usage"),
        (pipeline_dir, {"artifacts": True}, "usage"),
        (pipeline_dir, {"options": {"unet": {"$": "pickle"}}}, "usage"),
    ):
        request = {"device": "cpu", **load}
        ours, theirs = socket.socketpair()
        with ours, theirs:
            resident.run(theirs, r.Load(folder=str(folder), **request))
            theirs.close()
            while True:
                event, _ = frames.receive(ours, r.FromResidentWorker)
                if not isinstance(event, r.Progress):
                    break
            assert isinstance(event, r.Failed), load
            assert (event.id, event.error.code) == (0, code), event.error


@pytest.mark.parametrize("way", {**WAYS, **GAPS})
def test_spoilt_folder_is_refused_with_its_reason(tmp_path, pipeline_dir, way):
    talk = Talk(spoilt(pipeline_dir, tmp_path, way))
    event, _ = talk.hear(r.Failed, r.Loaded)
    talk.end()
    _, code, words = {**WAYS, **GAPS}[way]
    assert isinstance(event, r.Failed)
    assert event.error.code == code
    assert re.search(words, str(to_error(event.error)))


def test_code_of_the_repository_is_not_run(tmp_path, pipeline_dir):
    import json
    import shutil

    folder = tmp_path / "evil"
    shutil.copytree(pipeline_dir, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", "Evil"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "pipeline.py").write_text("raise SystemExit('code of the repository was run')")
    talk = Talk(folder)
    event, _ = talk.hear(r.Failed)
    assert event.error.code == "usage"
    talk.end()


def test_running_call_is_cancelled_and_the_next_one_runs(talk):
    talk.ask(1, wants_steps=True, arguments={"num_inference_steps": 900})
    talk.hear(r.Step)
    frames.send(talk.line, r.Cancel(id=1))
    event, _ = talk.hear(r.Failed)
    assert (event.id, event.error.code) == (1, "cancelled")
    talk.ask(2)
    assert talk.hear(r.Returned)[0].id == 2


def test_waiting_call_is_cancelled_before_it_runs(talk):
    talk.ask(1, arguments={"num_inference_steps": 50})
    talk.ask(2, wants_steps=True)
    frames.send(talk.line, r.Cancel(id=2))
    assert talk.hear(r.Returned)[0].id == 1
    event, _ = talk.hear(r.Step, r.Failed)
    assert (type(event), event.id) == (r.Failed, 2)


def test_cancel_that_comes_too_late_is_about_nothing(talk):
    talk.ask(1)
    talk.hear(r.Returned)
    frames.send(talk.line, r.Cancel(id=1))
    talk.ask(1)
    event, fds = talk.hear(r.Returned, r.Failed)
    frames.close_all(fds)
    assert isinstance(event, r.Returned)


def test_worker_ends_when_the_front_is_gone_in_mid_call(pipeline_dir):
    talk = Talk(pipeline_dir)
    talk.hear(r.Loaded)
    talk.ask(1, wants_steps=True, arguments={"num_inference_steps": 900})
    talk.hear(r.Step)
    talk.end()


def test_hostile_arguments_are_the_callers_own_trouble(talk):
    encoder = Encoder()
    bad_fd = os.memfd_create("unsealed")
    for number, (arguments, fds) in enumerate(
        [
            ({"prompt": {"$": "pickle", "offset": 0}}, []),
            (
                {"prompt": {"$": "image", "mode": "RGB", "size": [1, 1], "offset": 0, "bytes": 3}},
                [],
            ),
            ({"prompt": "x"}, [bad_fd]),
            ({"self": 1}, []),
            ({"callback_on_step_end": "os.system"}, []),
            ({"__class__": 1}, []),
        ],
        start=1,
    ):
        talk.ask(number, fds, arguments=arguments)
        event, _ = talk.hear(r.Failed, r.Returned)
        assert isinstance(event, r.Failed), arguments
        assert (event.id, event.error.code) == (number, "usage")
    os.close(bad_fd)
    talk.ask(99, arguments={"prompt": encoder.encode("ein Haus", "prompt")})
    event, fds = talk.hear(r.Returned)
    assert Decoder(fds).decode(event.fields["images"])[0].size == (64, 64)
    frames.close_all(fds)


def test_lost_device_ends_the_worker_once_it_has_been_told(talk, monkeypatch):
    def lose(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(resident, "perform", lose)
    talk.ask(1)
    event, _ = talk.hear(r.Failed)
    assert event.error.code == "failed"
    talk.thread.join(30)
    assert not talk.thread.is_alive()


@pytest.mark.parametrize(
    ("error", "code", "is_fatal"),
    [
        (MemoryError(), "no_space", False),
        (torch.OutOfMemoryError("CUDA out of memory"), "no_space", False),
        (RuntimeError("CUDA error: out of memory"), "no_space", False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "no_space", False),
        (RuntimeError("CUDA error: device-side assert triggered"), "failed", True),
        (RuntimeError("shapes cannot be multiplied"), "failed", False),
        (ValueError("height"), "usage", False),
        (KeyError("x"), "usage", False),
        (failures.Stopped(), "cancelled", False),
        (AssertionError(), "failed", False),
    ],
    ids=repr,
)
def test_failures_have_kinds(error, code, is_fatal):
    told = failures.described(error, "cpu")
    assert told.code == code
    assert ("Traceback" not in str(told) and told.hint) or code == "cancelled"
    assert failures.is_fatal(error) == is_fatal


def test_weights_come_back_after_a_cast(stock):
    before = {name: p.data_ptr() for name, p in stock.vae.named_parameters()}
    kept = Weights(stock)
    stock.vae.to(torch.float64)
    kept.restore()
    assert {name: p.data_ptr() for name, p in stock.vae.named_parameters()} == before
    assert {p.dtype for p in stock.vae.parameters()} == {torch.float32}


def test_attention_of_a_call_that_failed_is_not_the_next_ones(stock):
    from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

    kept = Weights(stock)
    before = stock.unet.attn_processors
    stock.unet.set_attn_processor(PAGIdentitySelfAttnProcessor2_0())
    kept.restore()
    assert stock.unet.attn_processors == before
    stock.unet.set_attn_processor(dict.fromkeys(before, torch.nn.Identity()))
    kept.restore()
    assert stock.unet.attn_processors == before


def test_buffers_come_back_after_a_cast():
    norm = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    kept = Weights(SimpleNamespace(components={"norm": norm}))
    norm.to(torch.float64)
    kept.restore()
    assert {b.dtype for b in norm.buffers()} == {torch.float32, torch.int64}


def test_words_of_an_error_about_arguments_are_not_logged(capfd):
    # Not in these lines themselves, which a traceback shows.
    prompt = "se" + "cret"
    try:
        raise ValueError(prompt)
    except ValueError as error:
        assert prompt in str(failures.described(error, "cpu"))
    try:
        raise OSError("the disk is on fire") from KeyError(prompt)
    except OSError as error:
        failures.described(error, "cpu")
    said = capfd.readouterr().err
    assert prompt not in said
    assert "ValueError" in said and "OSError: the disk is on fire" in said
    assert "test_resident_worker.py" in said


@pytest.fixture
def diffusers_says():
    """What diffusers logs, at the verbosity it comes with."""
    from diffusers.utils import logging as theirs

    said, before = [], theirs.get_verbosity()
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    theirs.set_verbosity_warning()
    theirs.add_handler(handler)
    yield said
    theirs.remove_handler(handler)
    theirs.set_verbosity(before)


def test_prompt_that_is_cut_off_is_not_logged(pipeline_dir, diffusers_says):
    talk = Talk(pipeline_dir)
    talk.hear(r.Loaded)
    talk.ask(1, arguments={"prompt": "my own secret " * 100})
    _, fds = talk.hear(r.Returned)
    frames.close_all(fds)
    talk.end()
    assert not [line for line in diffusers_says if "secret" in line]


def test_compiled_code_that_cannot_be_saved_costs_no_call(talk, monkeypatch):
    class Broken:
        def news(self):
            raise RuntimeError("the compiler is out of order")

    perform = resident.perform

    def with_compiled(held, *rest, **named):
        held.compiled = Broken()
        return perform(held, *rest, **named)

    monkeypatch.setattr(resident, "perform", with_compiled)
    for number in (1, 2):
        talk.ask(number)
        event, fds = talk.hear(r.Returned)
        frames.close_all(fds)
        assert event.id == number


def test_every_call_has_a_scheduler_of_its_own(stock):
    loaded = stock.scheduler
    kept = Schedulers(stock)
    kept.renew(stock, None)
    first = stock.scheduler
    first.set_timesteps(7)
    kept.renew(stock, None)
    assert stock.scheduler is not first and stock.scheduler is not loaded
    assert stock.scheduler.num_inference_steps == loaded.num_inference_steps != 7
    kept.renew(stock, "EulerDiscreteScheduler")
    assert type(stock.scheduler).__name__ == "EulerDiscreteScheduler"
    kept.renew(stock, None)
    assert type(stock.scheduler) is type(loaded)


def test_pipeline_without_a_callback_is_followed_by_its_scheduler():
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from zhcached.workers.loading import Held

    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    pipeline = DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=10))
    pipeline.set_progress_bar_config(disable=True)
    assert calling.CALLBACK not in calling.parameters(pipeline)
    held = Held(pipeline, torch.device("cpu"))
    seen = []
    call = r.Call(id=1, arguments={"num_inference_steps": 4}, seed=1)

    def follow(step, total, timestep):
        seen.append((step, total))

    for _ in range(2):
        _, fds = calling.perform(held, call, [], is_cancelled=lambda: False, on_step=follow)
        frames.close_all(fds)
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)] * 2
    with pytest.raises(failures.Stopped):
        calling.perform(held, call, [], is_cancelled=lambda: len(seen) > 9, on_step=follow)
    assert len(seen) == 10


@pytest.mark.slow
def test_compiled_blocks_are_kept_for_the_next_worker(pipeline_dir, tmp_path, monkeypatch):
    """The second worker takes what the first one compiled, and says nothing new."""
    import subprocess
    import sys

    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\necho "$@" >> "$COMPILED"\nexec g++ "$@"\n')
    compiler.chmod(0o755)

    script = """
import socket, sys
from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcached.workers import resident
line = socket.socket(fileno=int(sys.argv[1]))
request, fds = frames.receive(line, r.Load)
resident.run(line, request, fds)
from torch._dynamo.utils import counters
print(dict(counters["inductor"]))
"""
    kept = None
    hits = []
    for turn in range(2):
        ours, theirs = socket.socketpair()
        ours.settimeout(150)
        scratch = tmp_path / str(turn)
        worker = subprocess.Popen(
            [sys.executable, "-c", script, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "TORCHINDUCTOR_CACHE_DIR": str(scratch),
                "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
                "PYTHONPATH": os.pathsep.join(sys.path),
                "CXX": str(compiler),
                "COMPILED": str(tmp_path / f"compiled-{turn}"),
            },
        )
        theirs.close()
        beside = [kept] if kept is not None else []
        load = r.Load(folder=str(pipeline_dir), device="cpu", compile=True, artifacts=bool(beside))
        frames.send(ours, load, beside)
        arguments = {"prompt": "x", "num_inference_steps": 1, "guidance_scale": 1.0}
        frames.send(ours, r.Call(id=1, arguments=arguments, seed=1))
        while True:
            event, fds = frames.receive(ours, r.FromResidentWorker)
            assert not isinstance(event, r.Failed), event
            if isinstance(event, r.Returned):
                frames.close_all(fds)
                if turn == 1:
                    break
            elif isinstance(event, r.Artifacts):
                assert turn == 0 and os.fstat(fds[0]).st_size == event.bytes
                (kept,) = fds
                break
        ours.close()
        out, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
        hits.append(out)
    os.close(kept)
    assert "fxgraph_cache_hit" not in hits[0]
    assert "fxgraph_cache_hit" in hits[1] and "fxgraph_cache_miss" not in hits[1]
    runs = [(tmp_path / f"compiled-{turn}").read_text().count(".cpp ") for turn in range(2)]
    assert runs[0] > 0
    assert runs[1] == 0, "libraries were compiled anew"


def test_weights_in_arenas_give_what_files_give(pipeline_dir, stock):
    """As on a GPU: a fill worker's memory, attached by the resident one."""
    from zhcached.workers import fill

    ours, theirs = socket.socketpair()
    wanted = ["text_encoder", "unet", "vae"]
    request = r.Fill(folder=str(pipeline_dir), components=wanted, device="cpu")
    with ours, theirs:
        filling = threading.Thread(target=fill.run, args=(theirs, request), daemon=True)
        filling.start()
        arenas, fds = [], []
        while len(arenas) < len(wanted):
            event, beside = frames.receive(ours, r.FromFillWorker)
            assert not isinstance(event, r.Failed), event
            if isinstance(event, r.Filled):
                arenas.append(
                    r.Arena(
                        key=event.table.component, device="cpu", bytes=event.bytes,
                        table=event.table, checksum=event.checksum,
                    )
                )  # fmt: skip
                fds += beside
        filling.join(30)
    ours, theirs = socket.socketpair()
    load = r.Load(folder=str(pipeline_dir), device="cpu", arenas=arenas)
    thread = threading.Thread(target=resident.run, args=(theirs, load, fds), daemon=True)
    thread.start()
    frames.send(ours, r.Call(id=1, arguments={"prompt": "x", "num_inference_steps": 2}, seed=3))
    while True:
        event, beside = frames.receive(ours, r.FromResidentWorker)
        assert not isinstance(event, r.Failed), event
        if isinstance(event, r.Returned):
            break
    mine = Decoder(beside).decode(event.fields["images"])[0]
    frames.close_all(beside)
    seed = torch.Generator("cpu").manual_seed(3)
    assert mine.tobytes() == stock("x", num_inference_steps=2, generator=seed).images[0].tobytes()
    ours.close()
    thread.join(30)
    theirs.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
