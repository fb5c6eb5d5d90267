"""Copies of a pipeline's folder, each spoilt in one way, as somebody may have published it."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def _missing_key(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    del tensors["conv_norm_out.weight"]
    save_file(tensors, folder / WEIGHTS)


def _truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _overlapping(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [4]}
    table = {"a": {**entry, "data_offsets": [0, 16]}, "b": {**entry, "data_offsets": [8, 24]}}
    header = json.dumps(table).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))


def _headless(folder: Path) -> None:
    header = b'{"a": {}}'
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)


def _wrong_shape(folder: Path) -> None:
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    config["block_out_channels"] = [2 * count for count in config["block_out_channels"]]
    path.write_text(json.dumps(config))


def _bad_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{}}")


def _bad_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{not json")


def _list_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("[1, 2]")


def _unknown_class(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "NoSuchPipeline"}))


def _no_component(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def _no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def _no_shard(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    half = len(tensors) // 2
    stem = WEIGHTS.removesuffix(".safetensors")
    shards = [f"{stem}-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {
        name: Path(shards[number >= half]).name for number, name in enumerate(sorted(tensors))
    }
    first = {name: tensors[name] for name, file in weight_map.items() if file in shards[0]}
    save_file(first, folder / shards[0])
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()


WAYS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing key": (_missing_key, "integrity", r"weights of unet .* conv_norm_out\.weight"),
    "truncated": (_truncated, "integrity", "cannot be read: SafetensorError"),
    "overlapping": (_overlapping, "integrity", "cannot be read: SafetensorError"),
    "headless": (_headless, "integrity", "is not a safetensors file"),
    "wrong shape": (_wrong_shape, "integrity", "cannot be read: .* shape"),
    "bad config": (_bad_config, "integrity", "cannot be read: OSError"),
    "bad index": (_bad_index, "integrity", r"model_index\.json of .* cannot be read: Expecting"),
    "list index": (_list_index, "integrity", r"model_index\.json of .* cannot be read: it is no"),
    "unknown class": (_unknown_class, "usage", "has no pipeline 'NoSuchPipeline'"),
}
"""How, the code of the error, and what its message says."""


GAPS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no component": (_no_component, "incomplete", r"lacks unet/, which its index names"),
    "no weights": (_no_weights, "incomplete", r"lacks unet/\*\.safetensors, which its"),
    "no shard": (_no_shard, "incomplete", r"lacks unet/\S+-00002-of-00002\.safetensors, which its"),
}
"""The same, of what fetching again may mend."""


def spoilt(sound: Path, where: Path, way: str) -> Path:
    """Returns a copy of ``sound`` in ``where``, spoilt in one of ``WAYS`` or ``GAPS``."""
    folder = shutil.copytree(sound, where / "spoilt")
    {**WAYS, **GAPS}[way][0](folder)
    return folder
