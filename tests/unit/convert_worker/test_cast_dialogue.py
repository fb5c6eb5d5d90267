"""What worker and front say to each other: names, progress, what is taken as it is, the end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file

from harness import converted, families
from zhcache.protocol import frames
from zhcache.protocol.conversion import Begin, Convert, Finished, FromConvertWorker, Part, Worked
from zhcached.workers import convert
from zhcached.workers.outgoing import Told
from zhcached.workers.tensors import encoded

FILE = "model.safetensors"
FP16 = Part(scheme="fp16")


def encoder(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    target = folder / "text_encoder"
    shutil.copytree(families.folder("sd15") / "text_encoder", target)
    tensors = {name: one.to(dtype) for name, one in load_file(target / FILE).items()}
    save_file(tensors, target / FILE, {"format": "pt", "made": "by a test"})
    return target


def asked(source: Path, part: Part = FP16) -> Convert:
    return converted.asked(source, "transformers", "CLIPTextModel", part)


def large(folder: Path, count: int) -> Path:
    """An encoder of one tensor of ``count`` float32 zeros that take no room on the disk."""
    source = encoder(folder)
    head = encoded([("w", "F32", (count,), 4 * count)], {"format": "pt"})
    with (source / FILE).open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 4 * count)
    return source


def test_a_file_that_is_as_wanted_is_taken_as_it_is(tmp_path: Path) -> None:
    source = encoder(tmp_path, torch.float16)
    made = converted.answer(asked(source), source, tmp_path / "made")
    assert made.errors == {}
    assert (tmp_path / "made" / FILE).read_bytes() == (source / FILE).read_bytes()


def test_metadata_of_the_source_are_kept(tmp_path: Path) -> None:
    import safetensors

    source = encoder(tmp_path)
    converted.answer(asked(source), source, tmp_path / "made")
    with safetensors.safe_open(tmp_path / "made" / FILE, "pt") as file:
        assert file.metadata() == {"format": "pt", "made": "by a test"}


def test_a_variant_s_names_become_plain_in_the_index_too(tmp_path: Path) -> None:
    source = encoder(tmp_path)
    tensors = list(load_file(source / FILE).items())
    (source / FILE).unlink()
    old = [f"model.fp32-0000{number}-of-00002.safetensors" for number in (1, 2)]
    new = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save_file(dict(tensors[:3]), source / old[0])
    save_file(dict(tensors[3:]), source / old[1])
    index = "model.safetensors.index.fp32.json"
    weight_map = {name: old[at >= 3] for at, (name, _) in enumerate(tensors)}
    (source / index).write_text(json.dumps({"weight_map": weight_map}))
    rename = {**dict(zip(old, new, strict=True)), index: "model.safetensors.index.json"}
    request = msgspec.structs.replace(asked(source), index=index, rename=rename)
    converted.answer(request, source, tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").glob("*.safetensors")) == new
    written = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text())
    assert written["weight_map"] == {name: new[at >= 3] for at, (name, _) in enumerate(tensors)}
    assert load_file(tmp_path / "made" / new[1]).keys() == dict(tensors[3:]).keys()


def test_progress_reaches_the_size_of_the_source_and_never_falls(tmp_path: Path) -> None:
    source = large(tmp_path, 2**20)
    told: list[int] = []
    finished = listen(asked(source), lambda event: told.append(event.bytes_done))
    assert isinstance(finished, Finished)
    assert told == sorted(told)
    assert told[-1] == (source / FILE).stat().st_size
    assert finished.tools["torch"] == torch.__version__


def listen(request: Convert, hear) -> object:
    """Runs the worker, throws its files away; returns its last word."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=convert.run, args=(theirs, request))
    thread.start()
    with ours, theirs:
        while True:
            event, _ = frames.receive(ours, FromConvertWorker)
            if isinstance(event, Worked):
                hear(event)
            elif hasattr(event, "error") or isinstance(event, Finished):
                thread.join()
                return event
            elif type(event).__name__ == "Chunk":
                converted._exactly(ours, event.size)


def test_a_front_that_closes_the_line_ends_the_worker(tmp_path: Path) -> None:
    source = large(tmp_path, 2**26)
    ours, theirs = socket.socketpair()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            convert.run(theirs, asked(source))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    event, _ = frames.receive(ours, FromConvertWorker)
    assert isinstance(event, Begin)
    ours.close()
    thread.join(60)
    assert not thread.is_alive()
    theirs.close()
    assert failed == []


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """The most that this process held meanwhile, above what it held before."""
    small, size = large(tmp_path / "small", 2**10), 2**26
    listen(asked(small), lambda _: None)
    source = large(tmp_path / "large", size)
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    assert isinstance(listen(asked(source), lambda _: None), Finished)
    growth = held("VmHWM") - before
    assert growth < 32 * 2**20 < os.stat(source / FILE).st_size / 4


def held(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def test_what_is_read_again_is_not_told_again() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told = Told(theirs)
        for done in (10, 5, 10, 20):
            told.reached(done, at_once=True)
        theirs.close()
        events = [frames.receive(ours, FromConvertWorker)[0].bytes_done for _ in range(2)]
        assert events == [10, 20]
        assert ours.recv(1) == b""
