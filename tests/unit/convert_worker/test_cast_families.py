"""Casts of whole components: what stock from_pretrained makes of the same request, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness import converted, families, sameness
from zhcache.pipeline import published, skeleton
from zhcache.protocol.conversion import Part

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


def stock(folder: Path, kind, dtype: torch.dtype):
    return kind.from_pretrained(folder, **{skeleton.dtype_option(kind): dtype})


def check(source: Path, target: Path, library: str, class_name: str, scheme: str, keep=()) -> None:
    """Converts, loads both with stock and compares; then looks at the files themselves."""
    made = converted.convert(source, target, library, class_name, Part(scheme=scheme))
    kind = skeleton.component_class(library, class_name)
    dtype = DTYPES[scheme]
    mine, theirs = (sameness.tensors(stock(one, kind, dtype)) for one in (target, source))
    assert mine.keys() == theirs.keys()
    assert [name for name in theirs if mine[name] != theirs[name]] == []
    before, after = tensors(source), tensors(target)
    assert after.keys() == before.keys()
    for name, was in before.items():
        is_kept = any(part in keep for part in name.split("."))
        wanted = was.dtype if is_kept or not was.is_floating_point() else dtype
        assert after[name].dtype == wanted, name
        assert torch.equal(bits(after[name]), bits(was.to(wanted))), name
    assert {name for name, why in made.finished.kept.items() if "class" in why} == {
        name.rpartition(".")[0] or name
        for name, was in before.items()
        if was.dtype not in (dtype, torch.float16) and any(p in keep for p in name.split("."))
    }
    # Written by other hands than safetensors', but as aligned.
    for path in target.glob("*.safetensors"):
        for tensor in published.header(path).items():
            assert tensor[0] == "__metadata__" or is_aligned(tensor[1])


def is_aligned(tensor) -> bool:
    size = {"F32": 4, "I64": 8}.get(tensor["dtype"], 2)
    return tensor["data_offsets"][0] % size == 0


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("scheme", ["fp16", "bf16"])
@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux", "pixart", "z-image", "lumina"])
def test_a_family_is_cast_as_stock_casts_it(tmp_path: Path, family: str, scheme: str) -> None:
    folder = families.folder(family)
    for name, (library, class_name) in published.components(folder).items():
        if published.has_weights(folder / name):
            # T5's own rule, which counts for float16 alone.
            keep = ("wo",) if class_name == "T5EncoderModel" and scheme == "fp16" else ()
            check(folder / name, tmp_path / name, library, class_name, scheme, keep)


@pytest.mark.parametrize("scheme", ["fp16", "fp32"])
def test_qwen_image_published_in_bfloat16_is_cast_to_others(tmp_path: Path, scheme: str) -> None:
    folder = families.folder("qwen-image")
    for name, (library, class_name) in published.components(folder).items():
        if published.has_weights(folder / name):
            check(folder / name, tmp_path / name, library, class_name, scheme)


def test_a_class_of_diffusers_keeps_its_modules_in_both_dtypes(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    module = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=33,
        num_layers=2,
        rope_max_seq_len=32,
    )
    module.save_pretrained(tmp_path / "wan")
    keep = tuple(module._keep_in_fp32_modules)
    assert any("norm" in name for name in keep)
    for scheme in ("fp16", "bf16"):
        target = tmp_path / scheme
        check(tmp_path / "wan", target, "diffusers", "WanTransformer3DModel", scheme, keep)


@pytest.mark.parametrize(
    ("family", "name"), [("sd15", "unet"), ("pixart", "text_encoder"), ("sd3", "transformer")]
)
def test_shards_stay_shards(tmp_path: Path, family: str, name: str) -> None:
    folder = families.folder(family)
    library, class_name = published.components(folder)[name]
    kind = skeleton.component_class(library, class_name)
    module = stock(folder / name, kind, torch.float32)
    limit = "20KB" if family == "pixart" else "300KB"
    module.save_pretrained(tmp_path / name, max_shard_size=limit)
    shards = sorted(path.name for path in (tmp_path / name).glob("*.safetensors"))
    assert len(shards) > 2
    keep = ("wo",) if class_name == "T5EncoderModel" else ()
    check(tmp_path / name, tmp_path / "fp16", library, class_name, "fp16", keep)
    assert sorted(path.name for path in (tmp_path / "fp16").glob("*.safetensors")) == shards


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_eight_bit_sources_are_widened_as_stock_does(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = families.folder("flux")
    source = tmp_path / "transformer"
    shutil.copytree(folder / "transformer", source)
    from safetensors.torch import save_file

    file = source / "diffusion_pytorch_model.safetensors"
    save_file(
        {name: one.to(dtype) for name, one in load_file(file).items()}, file, {"format": "pt"}
    )
    for scheme in ("fp16", "bf16"):
        check(source, tmp_path / scheme, "diffusers", "FluxTransformer2DModel", scheme)


def test_float64_is_rounded_once(tmp_path: Path) -> None:
    folder = families.folder("flux")
    source = tmp_path / "transformer"
    shutil.copytree(folder / "transformer", source)
    from safetensors.torch import save_file

    file = source / "diffusion_pytorch_model.safetensors"
    wide = {name: one.double() * 1.000001 for name, one in load_file(file).items()}
    save_file(wide, file, {"format": "pt"})
    check(source, tmp_path / "fp16", "diffusers", "FluxTransformer2DModel", "fp16")


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    folder = families.folder("pixart")
    names = ("one", "two")
    for name in names:
        part = Part(scheme="fp16")
        source = folder / "text_encoder"
        converted.convert(source, tmp_path / name, "transformers", "T5EncoderModel", part)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in names)
    assert one == two
