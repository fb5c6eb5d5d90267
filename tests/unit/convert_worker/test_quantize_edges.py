"""Quantized: odd shapes, shards, kept modules, NaN, old names, equal bytes, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, HunyuanDiT2DModel, UNet2DModel
from safetensors.torch import load_file, save_file

from harness import families, quantkit
from harness.converted import convert
from zhcache.errors import IntegrityError, UsageError, ZhcacheError
from zhcache.protocol.conversion import Part
from zhcached.workers import quantize, torchao_format
from zhcached.workers.cast import Cast
from zhcached.workers.schemes import Entry, Group

KIND = "FluxTransformer2DModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def source(tmp_path):
    return quantkit.wide_flux(tmp_path / "source", torch.float32)


def flux(source, target, scheme="int8", **part):
    return convert(source, target, "diffusers", KIND, Part(scheme=scheme, **part))


def check(made, source, scheme="int8", **options):
    mine = quantkit.loaded(FluxTransformer2DModel, made.folder)
    stock = quantkit.quantized(FluxTransformer2DModel, source, "diffusers", scheme, **options)
    quantkit.check_same(mine, stock)
    return mine


@pytest.mark.parametrize(
    ("dtype", "scheme"),
    [
        (torch.float16, "int8"),
        (torch.bfloat16, "fp8"),
        *(
            pytest.param(dtype, scheme, marks=pytest.mark.slow)
            for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
            for scheme in ("int8", "fp8")
            if (dtype, scheme) not in {(torch.float16, "int8"), (torch.bfloat16, "fp8")}
        ),
    ],
)
def test_source_of_any_float_dtype(dtype, scheme, tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", dtype)
    check(flux(source, tmp_path / "made", scheme), source, scheme)


@pytest.mark.parametrize("scheme", [pytest.param("int8", marks=pytest.mark.slow), "fp8"])
def test_weights_of_many_blocks_are_those_of_one(scheme, source, tmp_path, monkeypatch):
    monkeypatch.setattr(torchao_format, "BLOCK", 5 * 192)
    check(flux(source, tmp_path / "made", scheme), source, scheme)


def test_tensor_that_is_called_as_a_part_of_a_quantized_one_is_refused(source, tmp_path):
    tensors = load_file(source / WEIGHTS)
    name = next(name for name in tensors if name.startswith("transformer_blocks.0.attn.to_q."))
    tensors[f"{name.rpartition('.')[0]}._weight_qdata"] = torch.zeros(1)
    save_file(tensors, source / WEIGHTS, {"format": "pt"})
    with pytest.raises(IntegrityError, match="would be there twice"):
        flux(source, tmp_path / "made")


def test_nan_in_a_configuration_is_told_with_the_component(source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"more": float("nan")}))
    with pytest.raises(ZhcacheError, match="cannot be converted: ValueError"):
        flux(source, tmp_path / "made")


def test_every_shard_tells_of_all_tensors(tmp_path):
    source = quantkit.wide_flux(tmp_path / "source", torch.bfloat16, shard="1MB")
    made = flux(source, tmp_path / "made")
    check(made, source)
    assert len(list(made.folder.glob("*.safetensors"))) > 2


@pytest.mark.parametrize(("scheme", "dtype"), [("int8", "I8"), ("fp8", "F8_E4M3"), ("int4", "U8")])
def test_dtype_that_is_told_is_that_of_the_numbers(scheme, dtype, source, tmp_path):
    tensors = load_file(source / WEIGHTS)
    tensors["transformer_blocks.0.attn.to_k.weight"][0, 0] = torch.inf
    save_file(tensors, source / WEIGHTS, {"format": "pt"})
    made = flux(source, tmp_path / "made", scheme)
    assert made.errors["transformer_blocks.0.attn.to_q.weight"].dtype_out == dtype
    assert made.finished.kept["transformer_blocks.0.attn.to_k"] == f"overflow in {scheme}"


def test_kept_modules_are_those_that_stock_keeps(source, tmp_path):
    made = flux(source, tmp_path / "made", keep=["*.ff.net.2", "proj_out"])
    # A plain name means all modules that are called so, as it does to diffusers.
    kept = ["transformer_blocks.0.ff.net.2", "transformer_blocks.1.ff.net.2", "proj_out"]
    mine = check(made, source, modules_to_not_convert=kept)
    for part in (mine.proj_out, mine.single_transformer_blocks[0].proj_out):
        assert type(part.weight.data) is torch.Tensor
    for name in (*kept, "single_transformer_blocks.0.proj_out"):
        assert made.finished.kept[name] == "asked"
    said = json.loads((made.folder / "config.json").read_text("utf-8"))["quantization_config"]
    assert said["modules_to_not_convert"] == kept


def test_module_with_nan_stays_as_it_was(source, tmp_path):
    held = load_file(source / WEIGHTS)
    name = "transformer_blocks.1.attn.to_k"
    held[f"{name}.weight"][3, 4] = float("nan")
    save_file(held, source / WEIGHTS, metadata={"format": "pt"})
    made = flux(source, tmp_path / "made")
    assert made.finished.kept[name] == "NaN"
    assert made.discarded
    assert made.errors[f"{name}.weight"].nonfinite_in == 1
    # The name means a single block's layer as well to diffusers; without such a block it is alone.
    mine = check(made, source, modules_to_not_convert=[name])
    assert mine.transformer_blocks[1].attn.to_k.weight.dtype == torch.bfloat16
    stored = load_file(made.folder / WEIGHTS)
    assert stored[f"{name}.weight"].dtype == torch.float32


def test_infinite_row_is_no_scale(source, tmp_path):
    held = load_file(source / WEIGHTS)
    held["transformer_blocks.0.attn.to_v.weight"][0, 0] = float("inf")
    save_file(held, source / WEIGHTS, metadata={"format": "pt"})
    for scheme in ("int8", "fp8"):
        made = flux(source, tmp_path / scheme, scheme)
        assert "overflow" in made.finished.kept["transformer_blocks.0.attn.to_v"]


def test_old_names_of_attention_are_mended(tmp_path):
    """As ``google/ddpm-*`` have them; stock mends them at loading, but not in quantized files."""
    source = tmp_path / "source"
    module = UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    module.save_pretrained(source)
    old = {
        name.replace("to_q", "query")
        .replace("to_k", "key")
        .replace("to_v", "value")
        .replace("to_out.0", "proj_attn"): tensor
        for name, tensor in load_file(source / WEIGHTS).items()
    }
    save_file(old, source / WEIGHTS, metadata={"format": "pt"})
    made = convert(source, tmp_path / "made", "diffusers", "UNet2DModel", Part(scheme="int8"))
    mine = quantkit.loaded(UNet2DModel, made.folder)
    quantkit.check_same(mine, quantkit.quantized(UNet2DModel, source, "diffusers", "int8"))


def test_encoder_with_published_prefix(tmp_path):
    """CLIP's published keys have a prefix that its module no longer knows."""
    from transformers import CLIPTextModel

    plain = families.folder("flux") / "text_encoder"
    source = tmp_path / "source"
    source.mkdir()
    held = load_file(plain / "model.safetensors")
    prefixed = {f"text_model.{key.removeprefix('text_model.')}": held[key] for key in held}
    prefixed["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(prefixed, source / "model.safetensors", metadata={"format": "pt"})
    config = {**json.loads((plain / "config.json").read_text("utf-8")), "torch_dtype": "float32"}
    config.pop("dtype", None)
    (source / "config.json").write_text(json.dumps(config), "utf-8")
    made = convert(source, tmp_path / "m", "transformers", "CLIPTextModel", Part(scheme="int8"))
    stock = quantkit.quantized(CLIPTextModel, source, "transformers", "int8")
    for dtype in (True, False):
        quantkit.check_same(quantkit.loaded(CLIPTextModel, made.folder, dtype=dtype), stock)
    keys = load_file(made.folder / "model.safetensors")
    assert "text_model.encoder.layers.0.mlp.fc1._weight_qdata" in keys


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_equal_inputs_give_equal_bytes_in_any_process(scheme, source, tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom harness.converted import convert\n"
        "from zhcache.protocol.conversion import Part\n"
        f"convert(Path(sys.argv[1]), Path(sys.argv[2]), 'diffusers', {KIND!r},"
        f" Part(scheme={scheme!r}))\n"
    )
    tests = Path(__file__).parents[2]
    path = ":".join(map(str, (tests, tests.parent, tests.parent / "daemon")))
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", script, source, tmp_path / seed],
            env={"PYTHONPATH": path, "PYTHONHASHSEED": seed, "PATH": "/usr/bin"},
            check=True,
            capture_output=True,
        )
    for name in (WEIGHTS, "config.json"):
        first, second = ((tmp_path / seed / name).read_bytes() for seed in ("1", "2"))
        assert first == second


def test_what_was_published_quantized_is_refused(source, tmp_path):
    once = flux(source, tmp_path / "once")
    with pytest.raises(UsageError, match="published quantized"):
        flux(once.folder, tmp_path / "twice")


def test_kept_module_that_there_is_not_is_refused(source, tmp_path):
    with pytest.raises(UsageError, match="no module proj_in") as caught:
        flux(source, tmp_path / "made", keep=["proj_in"])
    assert "transformer_blocks." in caught.value.hint


@pytest.mark.parametrize("part", [Part("int8", 64), Part("fp8", 64), Part("int4", 8)])
def test_groups_that_mean_nothing_are_refused(part):
    with pytest.raises(UsageError, match="group_size"):
        quantize.scheme(part)


@pytest.mark.parametrize(("scheme", "package"), quantize.NEEDS.items())
def test_package_that_lacks_is_named(scheme, package, monkeypatch):
    monkeypatch.setattr(quantize.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=package) as caught:
        quantize.scheme(Part(scheme=scheme))
    assert "zhcache[quant]" in caught.value.hint


def test_other_shapes_than_announced_are_a_defect():
    scheme = torchao_format.TorchAo("int8", (), Cast("BF16"))
    names = {"qdata": (3, 8), "scale": (4, 1), "zero_point": (4, 1)}
    entries = tuple(
        Entry(f"x._weight_{name}", "F32" if name == "scale" else "I8", shape, "x.weight")
        for name, shape in names.items()
    )
    with pytest.raises(Exception, match="than it had announced"):
        scheme.convert(Group("x.weight", "quantize", entries), lambda: torch.ones(4, 8))


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_layers_that_torch_multiplies_with_itself_stay_and_the_model_runs(scheme, tmp_path):
    sizes = {"attention_head_dim": 8, "num_attention_heads": 4, "hidden_size": 32}
    texts = {"cross_attention_dim": 32, "cross_attention_dim_t5": 32, "pooled_projection_dim": 16}
    made = HunyuanDiT2DModel(
        sample_size=8, patch_size=2, num_layers=2, in_channels=4, **sizes, **texts
    )
    made.to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    target, kind = tmp_path / "made", "HunyuanDiT2DModel"
    convert(tmp_path / "plain", target, "diffusers", kind, Part(scheme=scheme))
    loaded = quantkit.loaded(HunyuanDiT2DModel, target)
    pooled = torch.ones(1, 256, 32, dtype=torch.bfloat16)
    assert loaded.time_extra_emb.pooler(pooled).shape == (1, 16)
    assert type(loaded.time_extra_emb.pooler.q_proj.weight) is torch.nn.Parameter
    assert type(loaded.blocks[0].attn1.to_q.weight.data) is not torch.Tensor
