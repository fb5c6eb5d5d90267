"""What a quantized pipeline needs here, told before anything of it is read."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from zhcache.errors import UsageError
from zhcache.pipeline import quantized


def put(folder, **methods):
    for component, method in methods.items():
        (folder / component).mkdir()
        said = {} if method is None else {"quantization_config": {"quant_method": method}}
        (folder / component / "config.json").write_text(json.dumps(said), "utf-8")
    return folder


def test_needs_what_the_components_name(tmp_path):
    put(tmp_path, transformer="sdnq", text_encoder="torchao", vae=None, unet="torchao")
    assert quantized.needs(tmp_path) == ["sdnq", "torchao"]


def test_plain_pipelines_need_nothing(tmp_path):
    assert quantized.needs(put(tmp_path, unet=None)) == []
    quantized.check(tmp_path)


NOTHING = ("", "[1]", '{"quantization_config": 7}', '{"quantization_config": {"quant_method": []}}')


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_no_configuration_needs_nothing(tmp_path, text):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(text, "utf-8")
    assert quantized.needs(tmp_path) == []


def test_a_method_of_tomorrow_is_left_to_the_libraries(tmp_path):
    quantized.check(put(tmp_path, unet="int3-magic"))


def test_what_lacks_is_named(tmp_path):
    # Neither is in this environment; a part of a package that is missing is asked for as well.
    put(tmp_path, transformer="quanto", text_encoder="auto-round", unet="torchao")
    with pytest.raises(UsageError, match="auto-round optimum-quanto") as caught:
        quantized.check(tmp_path)
    assert "pip install auto-round optimum-quanto" in caught.value.hint
    assert "torchao" not in caught.value.message


def test_hushed_lets_errors_through_and_ends(caplog):
    logger = logging.getLogger("torchao")
    with quantized.hushed():
        logger.warning("kernels lack")
        logger.error("broken")
    logger.warning("later")
    assert [record.message for record in caplog.records] == ["broken", "later"]


@pytest.mark.slow
def test_importing_diffusers_with_torchao_says_nothing():
    script = (
        "from zhcache.pipeline.quantized import hushed\n"
        "with hushed():\n"
        "    from diffusers import FluxTransformer2DModel\n"
        "import sys; assert 'torchao' in sys.modules\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "torchao" not in ran.stderr
    assert "opaque value type" not in ran.stderr
