"""Vision models of the store: what they give is what the libraries give, and they stay leased."""

import gc
import json
import shutil

import pytest
import torch

from harness import visionkit
from simulators.daemon import describe
from zhcache.errors import IntegrityError, NotFound, NotPermitted, UsageError
from zhcache.evaluate import stored
from zhcache.evaluate.stored import KINDS, Stored

REPO = "lab/vision"
IMAGES = [visionkit.noise(1), visionkit.noise(2, size=(32, 50))]


@pytest.fixture
def held(daemon, vision):
    def hold(kind):
        daemon.hold(REPO, vision(kind))
        return Stored(REPO, device="cpu")

    return hold


@pytest.mark.parametrize("kind", visionkit.MAKERS)
def test_features_are_those_of_the_model_itself(held, vision, kind):
    from transformers import AutoImageProcessor, AutoModel, CLIPVisionModelWithProjection

    stored = held(kind)
    found = stored.features(IMAGES)
    pixels = AutoImageProcessor.from_pretrained(vision(kind), backend="pil")(
        images=IMAGES, return_tensors="pt"
    )["pixel_values"]
    one = CLIPVisionModelWithProjection if kind == "clip_vision_model" else AutoModel
    model = one.from_pretrained(vision(kind)).eval()
    with torch.no_grad():
        if kind == "clip_vision_model":
            expected = model(pixels).image_embeds
        elif kind == "dinov2":
            expected = model(pixels).pooler_output
        else:
            expected = model.get_image_features(pixels).pooler_output
    assert torch.equal(found, expected)
    assert not torch.allclose(found[0], found[1])
    assert stored.name == f"{REPO}@{'c' * 40}"


@pytest.mark.parametrize("kind", visionkit.MAKERS)
def test_layers_hold_the_patches_alone(held, kind):
    stored = held(kind)
    found = stored.layers(IMAGES)
    assert [tuple(layer.shape) for layer in found] == [(2, visionkit.PATCHES, 32)] * 2
    tower = getattr(stored.model, "vision_model", stored.model)
    with torch.no_grad():
        whole = tower(stored.pixels(IMAGES), output_hidden_states=True).hidden_states[1:]
    # Class tokens come first; SigLIP has none.
    assert whole[0].shape[1] - visionkit.PATCHES == (kind != "siglip")
    for layer, each in zip(found, whole, strict=True):
        assert torch.equal(layer, each[:, -visionkit.PATCHES :])


def test_resizing_filters_before_it_drops_pixels(held):
    from PIL import Image

    board = torch.arange(64) % 2 * 255
    stripes = Image.fromarray(board.byte().repeat(64, 1).numpy()).convert("RGB")
    pixels = held("dinov2").pixels([stripes])
    # Every second column alone would be all black or all white; half of each is grey.
    assert float(pixels.std((2, 3)).max()) < 0.1


def test_model_stays_leased_while_it_lives(daemon, held):
    stored = held("clip")
    assert len(daemon.leases) == 1
    stored.close()
    assert daemon.lease_ended.wait(10)
    daemon.lease_ended.clear()
    stored = held("clip")
    del stored
    gc.collect()
    assert daemon.lease_ended.wait(10)


def test_what_is_not_held_is_fetched_by_its_commit(daemon, vision):
    daemon.incoming[REPO] = describe(REPO, vision("clip"), commit="d" * 40)
    stored = Stored(REPO, device="cpu")
    assert stored.name == f"{REPO}@{'d' * 40}"
    assert [request.only_pipeline for request in daemon.submitted] == [True]
    with pytest.raises(NotFound):
        Stored("lab/nothing", device="cpu")


def test_what_was_fetched_without_its_weights_is_fetched_whole(daemon, vision, tmp_path):
    whole = describe(REPO, vision("clip"))
    bare, cut = tmp_path / "bare", tmp_path / "cut"
    for folder in (bare, cut):
        shutil.copytree(vision("clip"), folder)
        (folder / "model.safetensors").unlink()
    (cut / "model-00001-of-00002.safetensors").write_bytes(b"")
    table = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
    (cut / "model.safetensors.index.json").write_text(json.dumps(table))
    for folder in (bare, cut):
        daemon.hold(REPO, folder)
        daemon.incoming[REPO] = whole
        assert Stored(REPO, device="cpu").folder == vision("clip")
    assert len(daemon.submitted) == 2
    Stored(REPO, device="cpu")
    assert len(daemon.submitted) == 2


def test_files_that_are_closed_are_told_with_another_way(daemon, vision, monkeypatch):
    daemon.hold(REPO, vision("clip"))
    # Nothing is closed to root.
    monkeypatch.setattr(stored, "is_closed", lambda _: True)
    with pytest.raises(NotPermitted, match=f"the files of {REPO}@c+ are closed to you") as told:
        Stored(REPO, device="cpu")
    assert "FILE.py:NAME" in told.value.hint
    assert daemon.lease_ended.wait(10)
    assert daemon.submitted == []


def test_a_device_that_holds_nothing_is_refused(held):
    with pytest.raises(UsageError, match="no device meta"):
        Stored(REPO, device="meta")


def spoilt(vision, tmp_path, spoil):
    folder = tmp_path / "spoilt"
    shutil.copytree(vision("clip"), folder)
    spoil(folder)
    return folder


def test_a_model_that_lacks_weights_is_no_judge_of_anything(daemon, vision, tmp_path):
    from safetensors.torch import load_file, save_file

    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        weights.pop("visual_projection.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    daemon.hold(REPO, spoilt(vision, tmp_path, spoil))
    with pytest.raises(IntegrityError, match=r"no weights for visual_projection") as failed:
        Stored(REPO, device="cpu")
    # What failed holds nothing, though its frames are still there.
    assert daemon.lease_ended.wait(10)
    assert failed.value.__traceback__ is not None


def test_weights_that_are_cut_are_told(daemon, vision, tmp_path):
    def spoil(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])

    daemon.hold(REPO, spoilt(vision, tmp_path, spoil))
    with pytest.raises(IntegrityError, match="SafetensorError"):
        Stored(REPO, device="cpu")


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"model_type": "bert"}, UsageError, "no model that looks at pictures: 'bert'"),
        (None, UsageError, "no model that looks at pictures: None"),
        ("no json", IntegrityError, "JSONDecodeError"),
        ("[" * 99_999, IntegrityError, "RecursionError"),
    ],
)
def test_what_is_no_vision_model_is_told_with_what_is(
    daemon, vision, tmp_path, config, error, words
):
    def spoil(folder):
        path = folder / "config.json"
        path.unlink()
        if config is not None:
            path.write_text(config if isinstance(config, str) else json.dumps(config))

    daemon.hold(REPO, spoilt(vision, tmp_path, spoil))
    with pytest.raises(error, match=words) as raised:
        Stored(REPO, device="cpu")
    if error is UsageError:
        assert all(kind in raised.value.hint for kind in KINDS)
