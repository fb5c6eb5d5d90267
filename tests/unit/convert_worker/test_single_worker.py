"""Components out of single files, by the real worker: bit for bit, or refused."""

import json

import numpy as np
import pytest

from harness import extracted, families, ldm
from harness.extracted import MADE, UNET, VAE
from zhcache.errors import IntegrityError, UsageError

CLIP = ("text_encoder", "cond_stage_model.transformer.", "clip")
OPEN_CLIP = ("text_encoder", "cond_stage_model.model.", "open_clip")
OUT = "model.diffusion_model.out.2.bias"
MIDDLE = "first_stage_model.decoder.mid.attn_1.q.weight"


@pytest.fixture(scope="module")
def sd1(pipeline_dir):
    return ldm.checkpoint(pipeline_dir, ldm.SD1)


@pytest.fixture
def take(pipeline_dir, tmp_path):
    """Takes one component out of a checkpoint that holds these tensors."""

    def of(tensors, piece, like=pipeline_dir):
        file = ldm.write(tmp_path / "m.safetensors", tensors)
        return extracted.extract(file, like, piece, tmp_path / "made")

    return of


@pytest.mark.parametrize(
    ("family", "text"), [("sd15", ldm.SD1), ("sd15", ldm.SD2), ("sdxl", ldm.SDXL)]
)
def test_components_are_those_that_the_checkpoint_was_made_of(family, text, tmp_path):
    like = families.folder(family)
    file = ldm.write(tmp_path / "m.safetensors", ldm.checkpoint(like, text))
    for piece in extracted.pieces(text):
        target = tmp_path / piece[0]
        made = extracted.extract(file, like, piece, target)
        (original,) = (like / piece[0]).glob("*.safetensors")
        extracted.assert_same(target / MADE, original)
        assert {"diffusers", "transformers", "torch"} <= made.finished.tools.keys()


def test_tensors_are_aligned_and_readers_of_torch_are_told_the_format(take, sd1, tmp_path):
    tensors = {k: v.astype(np.float16) if "bias" in k else v for k, v in sd1.items()}
    take(tensors, UNET)
    content = (tmp_path / "made" / MADE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    assert head.pop("__metadata__") == {"format": "pt"}
    assert {one["dtype"] for one in head.values()} == {"F16", "F32"}
    widths = {"F16": 2, "F32": 4}
    starts = [(8 + length + one["data_offsets"][0], widths[one["dtype"]]) for one in head.values()]
    assert all(start % width == 0 for start, width in starts)


def test_text_encoders_of_older_programs_are_known(take, sd1, pipeline_dir, tmp_path):
    older = {k.replace("transformer.text_model.", "transformer."): v for k, v in sd1.items()}
    assert older.keys() != sd1.keys()
    take(older, CLIP)
    extracted.assert_same(
        tmp_path / "made" / MADE, pipeline_dir / "text_encoder" / "model.safetensors"
    )


def test_values_that_are_no_numbers_are_counted(take, sd1):
    spoilt = {**sd1, OUT: np.full_like(sd1[OUT], np.nan)}
    made = take(spoilt, UNET)
    assert made.errors["conv_out.bias"].nonfinite_in == sd1[OUT].size


@pytest.mark.parametrize(
    ("change", "piece", "words"),
    [
        ({OUT: np.zeros(5, np.float32)}, UNET, "conv_out.bias of unet is [5], not [4]"),
        ({OUT: None}, UNET, "conv_out.bias of unet is missing"),
        ({"model.diffusion_model.more.weight": np.zeros(2)}, UNET, "no place for model.diffusion"),
        (
            {"model.diffusion_model.label_emb.0.0.weight": np.zeros(2)},
            UNET,
            "no place for model.diffusion_model.label_emb",
        ),
        ({MIDDLE: np.zeros((32, 32, 3, 3), np.float32)}, VAE, "mid.attn_1.q.weight of shape"),
        ({"first_stage_model.a": np.zeros(2)}, VAE, "no place for first_stage_model.a"),
        (
            {"cond_stage_model.transformer.text_model.final_layer_norm.bias": None},
            CLIP,
            "final_layer_norm.bias of text_encoder is missing",
        ),
        (
            {"cond_stage_model.transformer.text_model.encoder.layers.9.a": np.zeros(2)},
            CLIP,
            "text_encoder has no text_model.encoder.layers.9.a",
        ),
    ],
)
def test_a_mismatch_names_the_first_key(take, sd1, change, piece, words):
    changed = {k: v for k, v in {**sd1, **change}.items() if v is not None}
    with pytest.raises(UsageError) as refused:
        take(changed, piece)
    assert words in refused.value.message
    assert "'m.safetensors' does not fit the configuration of demo/base" in refused.value.message


def test_attention_in_one_piece_of_another_size_is_refused(take, pipeline_dir):
    tensors = ldm.checkpoint(pipeline_dir, ldm.SD2)
    key = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    with pytest.raises(UsageError, match="v_proj"):
        take({**tensors, key: tensors[key][:-1]}, OPEN_CLIP)


def test_the_last_layer_of_stable_diffusion_2_is_not_read(take, pipeline_dir, tmp_path):
    tensors = ldm.checkpoint(pipeline_dir, ldm.SD2)
    last = "cond_stage_model.model.transformer.resblocks.23"
    take({**tensors, f"{last}.ln_1.bias": np.zeros(32, np.float32)}, OPEN_CLIP)
    extracted.assert_same(
        tmp_path / "made" / MADE, pipeline_dir / "text_encoder" / "model.safetensors"
    )


def test_another_model_is_refused(take):
    tensors = ldm.checkpoint(families.folder("sdxl"), ldm.SDXL)
    with pytest.raises(UsageError, match="does not fit"):
        take(tensors, UNET)


def test_a_head_that_the_front_believed_is_checked_again(take, pipeline_dir, tmp_path, sd1):
    file = ldm.write(tmp_path / "m.safetensors", sd1)
    content = file.read_bytes()
    # Two tensors of one place: the front looks at the end alone.
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    first, second = [name for name in sorted(head) if name.endswith("in_layers.0.bias")][:2]
    head[first]["data_offsets"] = head[second]["data_offsets"]
    text = json.dumps(head).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(IntegrityError, match="overlap or leave a hole"):
        extracted.extract(file, pipeline_dir, UNET, tmp_path / "made")
