"""The published precision is read from headers alone."""

import json
from pathlib import Path

import pytest

from zhcache.completeness import gaps
from zhcache.errors import IntegrityError, UsageError
from zhcache.pipeline.published import Published, published


def pipeline(root: Path, **components: dict[str, str]) -> Path:
    """A pipeline's folder; each weights file holds one tensor of the dtype given."""
    index = {name: ["diffusers", "Model"] for name in components}
    root.mkdir(exist_ok=True)
    (root / "model_index.json").write_text(
        json.dumps({"_class_name": "P", "absent": [None, None], **index})
    )
    for name, files in components.items():
        (root / name).mkdir(exist_ok=True)
        (root / name / "config.json").write_text("{}")
        for file, dtype in files.items():
            weights(root / name / file, dtype)
    return root


def weights(path: Path, *dtypes: str, sizes: tuple[int, ...] = (8,)) -> None:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for number, (dtype, size) in enumerate(zip(dtypes, sizes, strict=True)):
        table[f"t{number}"] = {
            "dtype": dtype,
            "shape": [size],
            "data_offsets": [offset, offset + size],
        }
        offset += size
    head = json.dumps(table).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(offset))


UNET = "diffusion_pytorch_model.safetensors"
TEXT = "model.safetensors"


def test_published_names_the_dtype_of_each_component(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, unet={UNET: "BF16"}, vae={UNET: "F32"}, text={TEXT: "BF16"})
    assert published(folder) == Published(
        {"unet": "bfloat16", "vae": "float32", "text": "bfloat16"}, None
    )
    assert published(folder).default == "bfloat16"


def test_published_reads_the_plain_file_when_a_variant_lies_beside(tmp_path: Path) -> None:
    folder = pipeline(
        tmp_path, unet={UNET: "F32", "diffusion_pytorch_model.fp16.safetensors": "F16"}
    )
    assert published(folder) == Published({"unet": "float32"}, None)


def test_published_takes_the_variant_when_there_is_nothing_else(tmp_path: Path) -> None:
    folder = pipeline(
        tmp_path,
        unet={
            "diffusion_pytorch_model.fp16.safetensors": "F16",
            "diffusion_pytorch_model.non_ema.safetensors": "F32",
        },
        text={TEXT: "F32", "model.fp16.safetensors": "F16"},
        vae={UNET: "F32"},
    )
    assert published(folder) == Published(
        {"unet": "float16", "text": "float16", "vae": "float32"}, "fp16"
    )


@pytest.mark.parametrize(
    "names",
    [
        ("diffusion_pytorch_model-0000{}-of-00002.safetensors", None),
        ("diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors", "fp16"),
        ("diffusion_pytorch_model-0000{}-of-00002.fp16.safetensors", "fp16"),
    ],
)
def test_published_reads_every_shard(tmp_path: Path, names: tuple[str, str | None]) -> None:
    form, variant = names
    folder = pipeline(tmp_path, unet={})
    weights(folder / "unet" / form.format(1), "F32")
    weights(folder / "unet" / form.format(2), "F16", sizes=(800,))
    assert published(folder) == Published({"unet": "float16"}, variant)


def test_published_goes_by_most_bytes_and_ignores_integers(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, unet={})
    weights(folder / "unet" / UNET, "F32", "F16", "I64", sizes=(16, 64, 1000))
    assert published(folder).dtypes == {"unet": "float16"}


def test_published_leaves_quantized_components_to_their_own_config(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, unet={UNET: "I8"}, vae={UNET: "F16"})
    (folder / "unet" / "config.json").write_text('{"quantization_config": {}}')
    assert published(folder).dtypes == {"vae": "float16"}


def test_published_refuses_what_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model_index\.json"):
        published(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"[]"])
def test_published_refuses_a_file_without_a_header(tmp_path: Path, content: bytes) -> None:
    folder = pipeline(tmp_path, unet={})
    (folder / "unet" / UNET).write_bytes(content)
    with pytest.raises(IntegrityError, match="not a safetensors"):
        published(folder)


def test_gaps_name_an_absent_component_and_a_missing_shard(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, unet={UNET: "F32"}, vae={}, text={})
    assert gaps(folder) == ["vae/*.safetensors", "text/*.safetensors"]
    (folder / "text" / "tokenizer.json").touch()
    (folder / "text" / "config.json").unlink()
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (folder / "vae" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    weights(folder / "vae" / "model-1.safetensors", "F32")
    assert gaps(folder) == ["vae/model-2.safetensors"]
    weights(folder / "vae" / "model-2.safetensors", "F32")
    assert gaps(folder) == []
    assert gaps(tmp_path / "unet") == []
    assert gaps(tmp_path / "nowhere") == ["model_index.json"]
