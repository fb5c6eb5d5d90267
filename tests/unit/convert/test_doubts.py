"""What whoever asks for a variant is told of it besides where it lies."""

import msgspec
import pytest

from zhcache.protocol.conversion import Part, TensorError
from zhcached.convert.report import ComponentReport, Report, doubts


def report(scheme="fp16", dtype="F16", kept=(), nonfinite=0):
    tensor = TensorError(
        name="a.weight", dtype_in="F32", dtype_out=dtype, max_abs=0.0, relative=0.0,
        nonfinite_in=nonfinite, overflow=0, bytes=8,
    )  # fmt: skip
    unet = ComponentReport(
        library="diffusers", class_name="UNet2DConditionModel", part=Part(scheme=scheme),
        bytes_in=16, bytes_out=8, tools={}, kept=dict(kept), same=[], max_abs=0.0, relative=0.0,
        overflow=0, nonfinite_in=nonfinite, tensors=[tensor],
    )  # fmt: skip
    made = Report(
        variant=scheme, repo="lab/pipe", of="c", recipe="r", parts={}, inputs={}, tools={},
        taken=[], components={"unet": unet},
    )  # fmt: skip
    return msgspec.json.encode(made)


@pytest.mark.parametrize(
    "sound",
    [
        report(),
        report(kept={"norm": "class keeps it in float32", "out": "asked"}),
        report("int8", "I8", kept={"proj": "overflow in int8"}),
    ],
)
def test_sound_variant_leaves_nothing_to_say(sound):
    assert doubts(sound) == []


def test_modules_that_overflowed_are_named():
    (word,) = doubts(report(kept={"b": "overflow in fp16", "a": "overflow in fp16"}))
    assert "keeps 2 modules of unet as published, such as a: loaded as fp16" in word


def test_values_that_are_no_numbers_are_counted():
    assert doubts(report(nonfinite=3)) == ["3 values of unet were published as NaN or infinite"]


def test_quantized_component_of_which_nothing_was_quantized_is_told():
    (word,) = doubts(report("int4", "BF16"))
    assert word.startswith("nothing of unet became int4")


def test_what_is_no_report_is_refused():
    with pytest.raises(msgspec.MsgspecError):
        doubts(b"[]")
