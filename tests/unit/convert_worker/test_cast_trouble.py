"""NaN and values too large for the new dtype: found, counted, told, and their module left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import converted, families
from zhcache.protocol.conversion import Part

FILE = "diffusion_pytorch_model.safetensors"
OUT = "proj_out"
IN = "x_embedder"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A transformer of FLUX in float32, to be spoilt."""
    folder = tmp_path / "transformer"
    shutil.copytree(families.folder("flux") / "transformer", folder)
    spoil(folder, {})
    return folder


def spoil(folder: Path, values: dict[str, float]) -> None:
    """Sets the first value of each named tensor."""
    tensors = {name: tensor.float() for name, tensor in load_file(folder / FILE).items()}
    for name, value in values.items():
        tensors[name].view(-1)[0] = value
    save_file(tensors, folder / FILE, {"format": "pt"})


def cast(source: Path, scheme: str = "fp16", **options) -> converted.Converted:
    target = source.parent / f"made-{scheme}"
    part = Part(scheme=scheme, **options)
    return converted.convert(source, target, "diffusers", "FluxTransformer2DModel", part)


def dtypes(folder: Path) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in load_file(folder / FILE).items()}


def check_kept(made: converted.Converted, source: Path, kept: set[str], dtype=torch.float16):
    before, after = load_file(source / FILE), load_file(made.folder / FILE)
    for name, was in before.items():
        is_kept = name.rpartition(".")[0] in kept
        assert after[name].dtype == (torch.float32 if is_kept else dtype), name
        same = after[name].view(torch.uint8), was.to(after[name].dtype).view(torch.uint8)
        assert torch.equal(*same), name


def test_an_overflow_keeps_its_whole_module_and_is_counted(source: Path) -> None:
    spoil(source, {f"{OUT}.weight": 70_000.0, f"{IN}.bias": -1e30})
    made = cast(source)
    assert made.finished.kept == {OUT: "overflow in fp16", IN: "overflow in fp16"}
    check_kept(made, source, {OUT, IN})
    assert len(made.discarded) == 1
    assert "overflow in fp16" in made.discarded[0].reason
    error = made.errors[f"{OUT}.weight"]
    assert (error.overflow, error.nonfinite_in, error.dtype_out) == (1, 0, "F32")
    assert made.errors[f"{OUT}.bias"].overflow == 0
    json.dumps(error.max_abs, allow_nan=False)


def test_the_largest_number_of_half_precision_is_no_overflow(source: Path) -> None:
    # What lies halfway to the next number is rounded away, what lies below it is not.
    spoil(source, {f"{OUT}.weight": 65_519.0})
    assert cast(source).finished.kept == {}
    spoil(source, {f"{OUT}.weight": 65_520.0})
    shutil.rmtree(source.parent / "made-fp16")
    assert cast(source).finished.kept == {OUT: "overflow in fp16"}


def test_bfloat16_takes_what_half_precision_does_not(source: Path) -> None:
    spoil(source, {f"{OUT}.weight": 1e38, f"{IN}.weight": 3.4e38})
    made = cast(source, "bf16")
    assert made.finished.kept == {IN: "overflow in bf16"}
    check_kept(made, source, {IN}, torch.bfloat16)


@pytest.mark.parametrize("scheme", ["fp16", "bf16"])
def test_nan_keeps_its_module(source: Path, scheme: str) -> None:
    spoil(source, {f"{OUT}.bias": float("nan")})
    made = cast(source, scheme)
    assert made.finished.kept == {OUT: "NaN"}
    check_kept(made, source, {OUT}, torch.float16 if scheme == "fp16" else torch.bfloat16)
    error = made.errors[f"{OUT}.bias"]
    assert (error.overflow, error.nonfinite_in) == (0, 1)


def test_infinity_stays_infinity_and_is_only_counted(source: Path) -> None:
    spoil(source, {f"{OUT}.bias": float("-inf")})
    made = cast(source)
    assert made.finished.kept == {}
    assert made.discarded == []
    assert load_file(made.folder / FILE)[f"{OUT}.bias"][0] == float("-inf")
    error = made.errors[f"{OUT}.bias"]
    assert (error.overflow, error.nonfinite_in) == (0, 1)
    assert error.max_abs < 1.0


@pytest.mark.parametrize("keep", [OUT, "proj_*", f"{OUT}.*"])
def test_what_is_asked_for_is_kept(source: Path, keep: str) -> None:
    made = cast(source, keep=[keep])
    assert made.finished.kept == {OUT: "asked"}
    check_kept(made, source, {OUT})


def test_a_kept_name_does_not_mean_what_only_starts_like_it(source: Path) -> None:
    assert cast(source, keep=["proj"]).finished.kept == {}


def test_a_module_in_two_shards_is_kept_in_both(source: Path) -> None:
    """The bias that overflows comes in a later shard than the weight, which was sent by then."""
    tensors = load_file(source / FILE)
    bias = {f"{OUT}.bias": tensors.pop(f"{OUT}.bias") + 1e6}
    (source / FILE).unlink()
    names = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
    save_file(tensors, source / names[0], {"format": "pt"})
    save_file(bias, source / names[1], {"format": "pt"})
    weight_map = {**dict.fromkeys(tensors, names[0]), f"{OUT}.bias": names[1]}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (source / "m.safetensors.index.json").write_text(json.dumps(index))
    made = cast(source)
    assert made.finished.kept == {OUT: "overflow in fp16"}
    assert [discard.path for discard in made.discarded] == [names[1], names[0]]
    after = load_file(made.folder / names[0])
    assert after[f"{OUT}.weight"].dtype == torch.float32
    assert after[f"{IN}.weight"].dtype == torch.float16
    # Nothing of it changes, so that the blob is taken as it is.
    same = (source / names[1]).read_bytes() == (made.folder / names[1]).read_bytes()
    assert same
    written = json.loads((made.folder / "m.safetensors.index.json").read_text())
    whole = {**after, **load_file(made.folder / names[1])}
    assert written["weight_map"] == weight_map
    assert written["metadata"]["total_size"] == sum(one.nbytes for one in whole.values())
