"""Four bits: what sdnq makes, groups that do not divide rows, dtypes and shards of the source."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open

from harness import families, quantkit
from harness.converted import convert
from zhcache.errors import UsageError
from zhcache.protocol.conversion import Part

KIND = "FluxTransformer2DModel"


def both(source, target, **options):
    """Returns the module that stock loads of ours, the one that it quantizes, and the report."""
    part = Part(scheme="int4", group_size=options.get("group_size"), keep=options.pop("keep", []))
    made = convert(source, target, "diffusers", KIND, part)
    if part.keep:
        options["modules_to_not_convert"] = [f"{name}.weight" for name in part.keep]
    stock = quantkit.quantized(FluxTransformer2DModel, source, "diffusers", "int4", **options)
    return quantkit.loaded(FluxTransformer2DModel, made.folder), stock, made


def packed(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                found[name] = opened.get_tensor(name)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_source_of_any_float_dtype(dtype, tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", dtype)
    mine, stock, made = both(source, tmp_path / "made")
    quantkit.check_same(mine, stock)
    small = [name for name, tensor in packed(made.folder).items() if tensor.dtype == torch.uint8]
    assert len(small) > 10


# 80 does not divide 192: groups of 96; nor 768: of 96 as well. 7 is too small, 4096 a whole row.
@pytest.mark.parametrize("group_size", [16, 80, 128, 4096])
def test_groups_of_any_size(group_size, tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", torch.float32)
    mine, stock, _ = both(source, tmp_path / "made", group_size=group_size)
    quantkit.check_same(mine, stock)


def test_shards_come_with_their_index(tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", torch.float32, shard="2MB")
    assert len(list(source.glob("*.safetensors"))) > 2
    mine, stock, made = both(source, tmp_path / "made")
    quantkit.check_same(mine, stock)
    (index,) = made.folder.glob("*.index.json")
    said = json.loads(index.read_text("utf-8"))
    assert said["weight_map"].keys() == packed(made.folder).keys()
    assert said["metadata"]["total_size"] == sum(
        tensor.nbytes for tensor in packed(made.folder).values()
    )


def test_weight_takes_four_bits_and_a_half(tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", torch.float32)
    _, _, made = both(source, tmp_path / "made")
    name = "transformer_blocks.0.ff.net.0.proj.weight"
    assert made.errors[name].bytes == 768 * 192 * 4.5 / 8
    assert made.errors[name].dtype_in == "F32"
    assert 0.05 < made.errors[name].relative < 0.12


def test_what_is_kept_is_told_and_is_as_stock_keeps_it(tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", torch.float32)
    mine, stock, made = both(source, tmp_path / "made", keep=["transformer_blocks.1.attn.to_q"])
    quantkit.check_same(mine, stock)
    assert mine.transformer_blocks[1].attn.to_q.weight.dtype == torch.bfloat16
    assert mine.transformer_blocks[0].attn.to_q.weight.dtype == torch.uint8
    assert made.finished.kept["transformer_blocks.1.attn.to_q"] == "asked"
    assert made.finished.kept["x_embedder"] == "sdnq leaves it"


def test_no_dtype_asked_for_draws_as_well(tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", torch.float32)
    made = convert(source, tmp_path / "made", "diffusers", KIND, Part(scheme="int4"))
    mine = quantkit.loaded(FluxTransformer2DModel, made.folder, dtype=False)
    block = mine.transformer_blocks[0].ff.net[0].proj
    with torch.no_grad():
        drawn = block(torch.ones(1, 192, dtype=block.bias.dtype))
    assert drawn.isfinite().all()


def test_text_encoder_is_refused(tmp_path):
    source = families.folder("flux") / "text_encoder_2"
    with pytest.raises(UsageError, match="stock transformers reads no such weights"):
        convert(source, tmp_path / "made", "transformers", "T5EncoderModel", Part(scheme="int4"))
