"""Pickles of weights read by the real worker: the same tensors, or nothing at all."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from harness import families, pickled
from zhcache.errors import IntegrityError, UnsafeWeights
from zhcached.workers import unpickle

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn,
]  # fmt: skip


def saved(folder, content, **options):
    file = folder / "weights.bin"
    torch.save(content, file, **options)
    return file


def made_of(folder, content):
    """Returns the file that the worker makes of what torch.save writes, and the pickle."""
    file = saved(folder, content)
    pickled.answer(file, folder / "made")
    return folder / "made" / pickled.MADE, file


def assert_same(made, file):
    """The file holds what torch.load reads from the pickle, name by name and bit by bit."""
    ours, theirs = load_file(made), torch.load(file, weights_only=True)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(ours[name].reshape(-1).view(torch.uint8), plain), name


def test_every_dtype_and_shape_comes_as_torch_load_reads_it(tmp_path):
    tensors = {str(dtype): torch.randn(3, 5).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 4), "名": torch.ones(1)}
    tensors["parameter"] = torch.nn.Parameter(torch.randn(4))
    made, file = made_of(tmp_path, tensors)
    assert_same(made, file)
    with safe_open(made, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_views_and_names_that_share_memory_come_each_for_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "STEP", 64)
    whole = torch.randn(40, 30)
    tensors = {
        "whole": whole, "tied": whole[:20], "rows": whole[3:7], "turned": whole.t(),
        "columns": whole[:, 2:5], "one": whole[1:2, 1:2].expand(3, 3),
    }  # fmt: skip
    made, file = made_of(tmp_path, tensors)
    assert_same(made, file)


def test_the_same_pickle_gives_the_same_bytes(tmp_path):
    tensors = {"b": torch.ones(3, dtype=torch.int8), "a": torch.randn(5), "c": torch.tensor(1)}
    made, file = made_of(tmp_path, tensors)
    pickled.answer(file, tmp_path / "again")
    assert made.read_bytes() == (tmp_path / "again" / pickled.MADE).read_bytes()


def test_of_a_checkpoint_the_state_dict_is_taken(tmp_path):
    tensors = {"weight": torch.randn(3)}
    made, _ = made_of(tmp_path, {"epoch": 3, "state_dict": tensors})
    assert torch.equal(load_file(made)["weight"], tensors["weight"])


@pytest.mark.parametrize(
    ("family", "component", "library", "class_name"),
    [
        ("sd15", "unet", "diffusers", "UNet2DConditionModel"),
        ("sd15", "text_encoder", "transformers", "CLIPTextModel"),
        ("flux", "transformer", "diffusers", "FluxTransformer2DModel"),
        ("flux", "text_encoder_2", "transformers", "T5EncoderModel"),
    ],
)
def test_stock_loads_what_was_made_and_has_the_same_module(
    tmp_path, family, component, library, class_name
):
    import importlib

    kind = getattr(importlib.import_module(library), class_name)
    source = families.folder(family) / component
    stock = kind.from_pretrained(source)
    stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
    # The module's own: T5 has its embedding under two names that share memory.
    file = saved(tmp_path, stock.state_dict())
    folder = tmp_path / "made"
    pickled.answer(file, folder)
    (folder / pickled.MADE).rename(folder / f"{stem}.safetensors")
    shutil.copyfile(source / "config.json", folder / "config.json")
    ours, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    theirs = stock.state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())


class Calls:
    """Unpickled by pickle itself, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def endless():
    found = {}
    found["state_dict"] = found
    return found


def hostile(trap):
    plain = torch.zeros(3)
    return {
        "calls the shell": {"a": plain, "b": Calls(os.system, f"touch {trap}")},
        "opens a file": Calls(open, str(trap), "w"),
        "makes a folder": {"a": Calls(Path.mkdir, trap)},
        "evaluates": {"a": Calls(eval, f"open({str(trap)!r}, 'w')")},
        "takes memory for a tensor": {"a": Calls(torch.Tensor, 10**10)},
        "takes memory for bytes": {"a": Calls(bytearray, 10**11)},
        "a tensor larger than the file": {"a": torch.zeros(1).expand(10**9)},
        "sparse": {"a": torch.eye(3).to_sparse()},
        "complex": {"a": torch.zeros(3, dtype=torch.complex64)},
        "without bytes": {"a": torch.zeros(3, device="meta")},
        "a number": {"a": plain, "step": 3},
        "a list": [plain],
        "a tensor": plain,
        "a name that is a number": {1: plain},
        "a name of the format's own": {"__metadata__": plain},
        "a name that is no text": {"\ud800": plain},
        "nothing": {},
        "itself": endless(),
        "a whole module": {"a": torch.nn.Linear(2, 2)},
    }


@pytest.mark.parametrize("what", hostile(Path("trap")))
def test_what_is_no_plain_tensors_is_refused_and_nothing_is_called(tmp_path, what):
    trap = tmp_path / "trap"
    file = saved(tmp_path, hostile(trap)[what])
    with pytest.raises(UnsafeWeights) as refused:
        pickled.answer(file, tmp_path / "made")
    assert pickled.NAME in refused.value.message
    assert not trap.exists()
    assert not list((tmp_path / "made").glob("*"))


def test_traps_are_traps(tmp_path):
    trap = tmp_path / "trap"
    torch.load(saved(tmp_path, hostile(trap)["calls the shell"]), weights_only=False)
    assert trap.exists()


def by_hand(folder):
    """Archives that torch.save never writes, and why they are refused."""
    plain = torch.randn(64, 64)
    sound = saved(folder, {"a": plain})
    yield "the format before 1.6", _legacy(folder / "1", plain), UnsafeWeights, "before 1.6"
    yield "compressed", _packed(folder / "2", sound), UnsafeWeights, "is compressed"
    claims = pickled.archive(folder / "3", pickled.one_tensor(10**9, 10**9), data=bytes(16))
    yield "a shape beyond the file", claims, UnsafeWeights, ""
    shape = pickled.archive(folder / "4", pickled.one_tensor(4, 10**9), data=bytes(16))
    yield "a shape beyond its storage", shape, UnsafeWeights, ""
    negative = pickled.archive(folder / "5", pickled.one_tensor(-4, -4), data=bytes(16))
    yield "less than nothing", negative, UnsafeWeights, ""
    two = pickled.archive(folder / "6", b"\x80\x02}.", **{"y/data": b"\x80\x02}."})
    yield "two pickles", two, UnsafeWeights, "2 pickles"
    deep = pickled.archive(folder / "7", b"\x80\x02" + b"(" * 10**6 + b"t" * 10**6 + b".")
    yield "a million levels", deep, UnsafeWeights, "no names"
    large = pickled.archive(folder / "8", bytes(unpickle.MAX_PICKLE + 1))
    yield "a pickle that is too long", large, UnsafeWeights, "1 pickles of"
    code = pickled.archive(folder / "9", b"\x80\x02}.", **{"x/constants": b"\x80\x02)."})
    yield "a program", code, UnsafeWeights, ""
    content = sound.read_bytes()
    for name, text in (
        ("cut off", content[: len(content) // 2]),
        ("of zero bytes", b""),
        ("a pointer", b"version https://git-lfs.github.com/spec/v1\n"),
        ("safetensors", bytes([8]) + bytes(7) + b"{}      "),
    ):
        file = folder / name
        file.write_bytes(text)
        yield name, file, IntegrityError, "not a sound file"


def _legacy(file, tensor):
    torch.save({"a": tensor}, file, _use_new_zipfile_serialization=False)
    return file


def _packed(file, sound):
    with zipfile.ZipFile(sound) as read, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for member in read.infolist():
            made.writestr(member.filename, read.read(member))
    return file


def test_archives_that_torch_never_writes_are_refused(tmp_path):
    for number, (what, file, kind, why) in enumerate(by_hand(tmp_path)):
        made = tmp_path / f"made-{number}"
        with pytest.raises(kind) as refused:
            pickled.answer(file, made)
        assert type(refused.value) is kind, what
        assert why in refused.value.message, what
        assert pickled.NAME in refused.value.message
        assert not list(made.glob("*")), what


def test_memory_is_not_bounded_any_more_once_it_is_read(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    made_of(tmp_path, {"a": torch.zeros(3)})
    assert resource.getrlimit(resource.RLIMIT_AS) == before
