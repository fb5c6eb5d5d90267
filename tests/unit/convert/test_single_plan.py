"""What a checkpoint becomes together with the small files of another model."""

import json

import msgspec
import pytest

from harness.storekit import manifest_of
from zhcache.errors import IntegrityError, UsageError
from zhcached.convert import single_plan
from zhcached.convert.single_header import Tensor
from zhcached.convert.single_kinds import CONV_IN, tell
from zhcached.convert.single_plan import File

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
CLASSES = {name: tuple(value) for name, value in INDEX.items() if isinstance(value, list)}
FILES = {
    "model_index.json": json.dumps(INDEX).encode(),
    "README.md": b"words",
    "v1-5-pruned.safetensors": b"all of it",
    "feature_extractor/preprocessor_config.json": b"{}",
    "safety_checker/config.json": b"{1}",
    "safety_checker/model.safetensors": b"checks",
    "scheduler/scheduler_config.json": b"{}",
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"clip",
    "tokenizer/merges.txt": b"a b",
    "tokenizer/tokenizer_config.json": b"{}",
    "tokenizer/vocab.json": b"{}",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": b"unet",
    "unet/diffusion_pytorch_model.safetensors.index.json": b"{}",
    "vae/config.json": b"{}",
    "vae/old/config.json": b"{}",
}
SMALL = {
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
}
FILE = File("v1.safetensors", 100)
TENSORS = {
    CONV_IN: Tensor((320, 4, 3, 3), (0, 60)),
    "first_stage_model.a": Tensor((4,), (60, 80)),
    "cond_stage_model.transformer.a": Tensor((4,), (80, 100)),
}
LIKE = manifest_of(FILES, repo="demo/base")
KIND = tell(TENSORS, FILE.name)


def test_small_files_are_taken_and_nothing_else():
    assert {file.path for file in single_plan.taken(LIKE, CLASSES)} == SMALL
    assert single_plan.lacking(LIKE, CLASSES) is None


def test_each_component_is_asked_for_with_its_class_and_bytes():
    work = single_plan.work(KIND, FILE, TENSORS, LIKE, CLASSES)
    asked = {one.piece.component: one.request("/base") for one in work}
    assert {name: (r.library, r.class_name, r.bytes, r.output) for name, r in asked.items()} == {
        "unet": ("diffusers", "UNet2DConditionModel", 60, "diffusion_pytorch_model.safetensors"),
        "vae": ("diffusers", "AutoencoderKL", 20, "diffusion_pytorch_model.safetensors"),
        "text_encoder": ("transformers", "CLIPTextModel", 20, "model.safetensors"),
    }
    assert {r.folder for r in asked.values()} == {"/base"}


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("unet/config.json", "unet/*.json"),
        ("scheduler/scheduler_config.json", "scheduler/*.json"),
    ],
)
def test_a_component_without_its_configuration_is_lacking(lost, told):
    files = {path: content for path, content in FILES.items() if path != lost}
    assert single_plan.lacking(manifest_of(files), CLASSES) == told


def test_small_files_that_were_left_out_are_lacking_and_weights_are_not():
    left_out = {"unet/diffusion_pytorch_model.safetensors": "not matched by --include"}
    assert single_plan.lacking(manifest_of(FILES, left_out=left_out), CLASSES) is None
    left_out["tokenizer/special_tokens_map.json"] = "not matched by --include"
    lacking = single_plan.lacking(manifest_of(FILES, left_out=left_out), CLASSES)
    assert lacking == "tokenizer/special_tokens_map.json"


@pytest.mark.parametrize(
    ("component", "entry", "words"),
    [
        ("unet", ("diffusers", "FluxTransformer2DModel"), "its unet is FluxTransformer2DModel"),
        ("vae", None, "its vae is none"),
        ("image_encoder", ("transformers", "CLIPVision"), "image_encoder, which the file"),
    ],
)
def test_a_pipeline_of_other_components_is_refused(component, entry, words):
    classes = {k: v for k, v in {**CLASSES, component: entry}.items() if v is not None}
    like = manifest_of({**FILES, "image_encoder/config.json": b"{}"}, repo="demo/base")
    with pytest.raises(UsageError) as refused:
        single_plan.work(KIND, FILE, TENSORS, like, classes)
    assert words in refused.value.message
    assert "demo/base" in refused.value.message
    assert "--like" in refused.value.hint


def test_index_goes_without_the_safety_checker():
    made = json.loads(single_plan.index(FILES["model_index.json"]))
    assert made["safety_checker"] == [None, None]
    assert made["requires_safety_checker"] is False
    assert {k: v for k, v in made.items() if k in INDEX and k != "safety_checker"} == {
        k: v for k, v in INDEX.items() if k != "safety_checker"
    }


def test_index_without_a_safety_checker_stays_as_it_is():
    index = {k: v for k, v in INDEX.items() if k != "safety_checker"}
    assert json.loads(single_plan.index(json.dumps(index).encode())) == index


@pytest.mark.parametrize(
    ("marks", "scheduler", "lacks"),
    [
        ((), {}, None),
        (("v_pred",), {"prediction_type": "epsilon"}, "v_prediction"),
        (("v_pred",), {"prediction_type": "v_prediction"}, None),
        (("v_pred", "ztsnr"), {"prediction_type": "v_prediction"}, "rescale_betas_zero_snr"),
        (
            ("v_pred", "ztsnr"),
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            None,
        ),
    ],
)
def test_scheduler_must_be_one_for_what_was_trained(marks, scheduler, lacks):
    tensors = {**TENSORS, **{mark: Tensor((0,), (100, 100)) for mark in marks}}

    def check():
        single_plan.check_scheduler(FILE, tensors, LIKE, msgspec.json.encode(scheduler))

    if lacks is None:
        check()
        return
    with pytest.raises(UsageError, match=lacks):
        check()


def test_scheduler_that_cannot_be_read_is_told():
    with pytest.raises(IntegrityError, match=r"scheduler_config\.json of demo/base"):
        single_plan.check_scheduler(FILE, TENSORS, LIKE, b"{")
