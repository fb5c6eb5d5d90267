"""An adapter on the disk encodes texts, and spoilt ones are refused before they take memory."""

import json
import shutil

import pytest
import torch

from harness.adapterkit import about, small_adapter
from zhcache.chinese.adapter import format as described
from zhcache.chinese.adapter import network
from zhcache.errors import IntegrityError

LONG = "红色的猫，左边。" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_adapter(tmp_path_factory.mktemp("adapter") / "small")


@pytest.fixture
def spoilt(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "spoilt")


def test_texts_give_the_arguments_that_are_described(folder):
    embeds, cut = network.load(folder).encode(["红色的猫", "", LONG])
    shapes = {name: [tuple(one.shape) for one in found] for name, found in embeds.items()}
    assert shapes == {
        "prompt_embeds": [(1, 7, 12)] * 3,
        "pooled_prompt_embeds": [(9,)] * 3,
        "prompt_attention_mask": [(1, 7)] * 3,
    }
    assert cut[:2] == ["", ""]
    assert LONG.endswith(cut[2])
    assert 0 < len(cut[2]) < len(LONG)
    assert embeds["prompt_embeds"][0].dtype == torch.float32


def test_a_long_text_in_pieces_is_read_to_its_end(folder):
    adapter = network.load(folder)
    pieces = adapter.pieces(LONG)
    embeds, cut = adapter.encode(["红色的猫", LONG], chunks=True)
    assert cut == ["", ""]
    assert "".join(pieces) == LONG
    assert [len(one) for one in embeds["prompt_embeds"]] == [1, len(pieces)]
    assert embeds["pooled_prompt_embeds"][1].shape == (9,)
    for n, piece in enumerate(pieces):
        alone, _ = adapter.encode([piece])
        torch.testing.assert_close(alone["prompt_embeds"][0][0], embeds["prompt_embeds"][1][n])


def test_a_text_gives_the_same_whatever_stands_beside_it(folder):
    adapter = network.load(folder)
    alone, _ = adapter.encode(["猫"])
    beside, _ = adapter.encode(["红色的猫，左边。", "猫"])
    torch.testing.assert_close(alone["prompt_embeds"][0], beside["prompt_embeds"][1])


def test_masks_are_a_run_of_ones(folder):
    embeds, _ = network.load(folder).encode(["红色的猫", ""])
    for mask in embeds["prompt_attention_mask"]:
        assert mask.dtype == torch.int64
        assert mask[0, 0] == 1
        assert (mask[0].diff() <= 0).all()


def test_tensors_of_another_network_are_refused(spoilt):
    (spoilt / described.FILE).write_bytes(
        described.written(about(network=described.Network(layers=64, heads=2, width=16384)))
    )
    with pytest.raises(IntegrityError, match="not those of the network"):
        network.load(spoilt)


@pytest.mark.parametrize("path", ["adapter.safetensors", "encoder/model.safetensors"])
@pytest.mark.parametrize("change", ["missing", "short", "nonsense"])
def test_spoilt_weights_are_refused(spoilt, path, change):
    file = spoilt / path
    content = file.read_bytes()
    file.unlink()
    if change != "missing":
        file.write_bytes(content[:100] if change == "short" else b"\xff" * 64)
    with pytest.raises(IntegrityError):
        network.load(spoilt)


def test_an_encoder_that_lacks_weights_is_refused(spoilt):
    config = json.loads((spoilt / "encoder/config.json").read_text())
    config["num_hidden_layers"] = 2
    (spoilt / "encoder/config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match="lacks"):
        network.load(spoilt)


def test_more_positions_than_the_encoder_has_are_refused(spoilt):
    (spoilt / described.FILE).write_bytes(
        described.written(about(encoder=described.Encoder(max_length=512)))
    )
    with pytest.raises(IntegrityError, match="fewer positions"):
        network.load(spoilt)


def test_weights_that_end_too_early_are_refused(spoilt):
    file = spoilt / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(IntegrityError):
        network.load(spoilt)
