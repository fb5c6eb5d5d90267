"""What a pipeline takes, told by configurations and headers that came over the network."""

import json

import pytest

from zhcache.errors import IntegrityError
from zhcache.pipeline.fit import Form, fit
from zhcache.pipeline.needs import form, needs

KINDS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "P", **KINDS}))
    for name in KINDS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path


SPOILT = [
    "[" * 100_000,
    json.dumps({"sample_size": 10**300, "block_out_channels": [10**300] * 5000}),
    json.dumps({"sample_size": -1, "block_out_channels": [-4, 0, True, "4"]}),
    json.dumps({"sample_size": 0, "num_attention_heads": -5, "attention_head_dim": 10**400}),
    json.dumps({"patch_size": 10**400, "dim": -1, "hidden_size": "many"}),
]


@pytest.mark.parametrize("component", KINDS)
@pytest.mark.parametrize("config", SPOILT, ids=range(len(SPOILT)))
def test_configuration_of_no_model_is_not_reckoned_with(folder, component, config):
    (folder / component / "config.json").write_text(config)
    found = needs(folder)
    assert all(0 < count < 2**60 for count in (found.step, found.decode, found.decode_tiled))
    weights = [Form(None, {"unet": 1}, 1)]
    assert fit(weights, found, "auto", free=2**62, is_cuda=True).bytes >= found.step


@pytest.mark.parametrize(
    "header",
    [
        {"a": 1},
        {"a": {"dtype": "F32"}},
        {"a": {"dtype": "F32", "data_offsets": [0]}},
        {"a": {"dtype": ["F32"], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "data_offsets": ["0", "4"]}},
        {"a": {"dtype": "F32", "data_offsets": [4, 0]}},
        "deep",
    ],
    ids=str,
)
def test_header_that_describes_no_tensors_is_unsound(folder, header):
    text = b"[" * 100_000 if header == "deep" else json.dumps(header).encode()
    (folder / "unet" / FILE).write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        form(folder, None)
