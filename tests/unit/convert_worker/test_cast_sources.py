"""What a component's files must be: each damage is an error that names it, and nothing is made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness import converted, families
from zhcache.errors import IntegrityError, UsageError, ZhcacheError
from zhcache.protocol.conversion import Part

INDEX = "model.safetensors.index.json"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A text encoder in two shards."""
    folder = tmp_path / "text_encoder"
    shutil.copytree(families.folder("pixart") / "text_encoder", folder)
    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for number, part in enumerate((tensors[:9], tensors[9:])):
        save_file(dict(part), folder / shard(number), {"format": "pt"})
        weight_map |= {name: shard(number) for name, _ in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def shard(number: int) -> str:
    return f"model-0000{number + 1}-of-00002.safetensors"


def cast(source: Path, class_name: str = "T5EncoderModel") -> converted.Converted:
    part = Part(scheme="fp16")
    return converted.convert(source, source.parent / "made", "transformers", class_name, part)


def edit(source: Path, change: Callable[[dict], object]) -> None:
    index = json.loads((source / INDEX).read_text())
    change(index)
    (source / INDEX).write_text(json.dumps(index))


def test_the_source_is_sound_before_it_is_damaged(source: Path) -> None:
    made = cast(source)
    index = json.loads((made.folder / INDEX).read_text())
    assert set(index["weight_map"].values()) == {shard(0), shard(1)}


def no_index(source: Path) -> None:
    (source / INDEX).unlink()


def index_of_words(source: Path) -> None:
    (source / INDEX).write_text("{")


def index_nested(source: Path) -> None:
    (source / INDEX).write_text("[" * 200_000)


def index_without_map(source: Path) -> None:
    edit(source, lambda index: index.pop("weight_map"))


def index_names_more(source: Path) -> None:
    edit(source, lambda index: index["weight_map"].update({"ghost.weight": shard(0)}))


def index_names_fewer(source: Path) -> None:
    edit(source, lambda index: index["weight_map"].popitem())


def index_names_another_shard(source: Path) -> None:
    edit(source, lambda index: index["weight_map"].update(dict.fromkeys(index["weight_map"], "x")))


def tensor_twice(source: Path) -> None:
    one, two = load_file(source / shard(0)), load_file(source / shard(1))
    name = next(iter(one))
    save_file({**two, name: one[name]}, source / shard(1))


def truncated(source: Path) -> None:
    os.truncate(source / shard(1), (source / shard(1)).stat().st_size - 1)


def nothing_left(source: Path) -> None:
    os.truncate(source / shard(1), 0)


def wrong_dtype(source: Path) -> None:
    path = source / shard(1)
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F31"', 1))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (no_index, "no index"),
        (index_of_words, "no JSON"),
        (index_nested, "no JSON"),
        (index_without_map, "no weight_map"),
        (index_names_more, "ghost.weight"),
        (index_names_fewer, "it lacks"),
        (index_names_another_shard, "not in 'x'"),
        (tensor_twice, "as well"),
        (truncated, "end at byte"),
        (nothing_left, "0 bytes"),
        (wrong_dtype, "F31"),
    ],
)
def test_damage_is_told_and_nothing_is_made(
    source: Path, damage: Callable[[Path], None], word: str
) -> None:
    damage(source)
    with pytest.raises(IntegrityError) as caught:
        cast(source)
    assert word in caught.value.message
    assert "zhcache" in caught.value.hint
    assert list((source.parent / "made").iterdir()) == []


def test_a_lost_shard_is_told(source: Path) -> None:
    request = converted.asked(source, "transformers", "T5EncoderModel", Part(scheme="fp16"))
    (source / shard(1)).unlink()
    with pytest.raises(IntegrityError, match=r"00002-of-00002.*No such file"):
        converted.answer(request, source, source.parent / "made")


def test_a_class_that_is_no_module_is_refused(source: Path) -> None:
    with pytest.raises(UsageError, match="T5Tokenizer"):
        cast(source, "T5Tokenizer")


def test_a_config_that_cannot_be_read_is_told(source: Path) -> None:
    (source / "config.json").write_text("[")
    with pytest.raises(ZhcacheError, match="text_encoder cannot be converted"):
        cast(source)


def test_a_component_without_weights_is_refused(source: Path) -> None:
    for number in range(2):
        (source / shard(number)).unlink()
    with pytest.raises(UsageError, match="no weights"):
        cast(source)
