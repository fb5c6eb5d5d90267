"""How pipelines are made to fit: a table of models, devices and wishes, and the way expected."""

import msgspec
import pytest

from harness.placementkit import weights
from zhcache.errors import NoSpace, UsageError
from zhcache.pipeline.choose import taught
from zhcache.pipeline.fit import Fit, Form, Needs, fit, parse
from zhcache.protocol.placement import SeenCall

GIB = 2**30
# FLUX.1 and SD 1.5, in GiB: weights, the largest tensor, a step, decoding whole and in tiles.
FLUX = {None: 31.4, "int8": 21.0, "int4": 15.5}
FLUX_NEEDS = Needs(step=GIB // 2, decode=int(1.5 * GIB), decode_tiled=GIB // 4)
SD15 = {None: 4.0, "fp16": 2.0}
SD15_NEEDS = Needs(step=GIB // 8, decode=int(0.4 * GIB), decode_tiled=int(0.4 * GIB))


def forms(sizes):
    return [
        Form(name, {"transformer": int(size * 0.8 * GIB), "rest": int(size * 0.2 * GIB)}, GIB // 10)
        for name, size in sizes.items()
    ]


def chosen(sizes, needs, memory, free_gib, *, is_cuda=True) -> Fit:
    return fit(forms(sizes), needs, memory, free=int(free_gib * GIB), is_cuda=is_cuda)


@pytest.mark.parametrize(
    ("sizes", "needs", "memory", "free", "expected"),
    [
        # variant, tiles, offloaded
        (FLUX, FLUX_NEEDS, "auto", 80, (None, False, False)),
        (FLUX, FLUX_NEEDS, "auto", 33, (None, True, False)),
        (FLUX, FLUX_NEEDS, "auto", 24, ("int8", False, False)),
        (FLUX, FLUX_NEEDS, "auto", 22, ("int8", True, False)),
        (FLUX, FLUX_NEEDS, "auto", 17.5, ("int4", False, False)),
        (FLUX, FLUX_NEEDS, "auto", 12, (None, False, True)),
        (FLUX, FLUX_NEEDS, "auto", 1.2, (None, True, True)),
        (FLUX, FLUX_NEEDS, "low", 80, (None, True, True)),
        (FLUX, FLUX_NEEDS, 24 * GIB, 80, ("int8", False, False)),
        (FLUX, FLUX_NEEDS, 80 * GIB, 24, ("int8", False, False)),
        (SD15, SD15_NEEDS, "auto", 6, (None, False, False)),
        (SD15, SD15_NEEDS, "auto", 4, ("fp16", False, False)),
    ],
)
def test_the_cheapest_way_that_fits(sizes, needs, memory, free, expected):
    found = chosen(sizes, needs, memory, free)
    assert (found.variant, found.is_tiled, found.is_offloaded) == expected


def test_a_form_of_which_calls_were_seen_is_fitted_by_them():
    heard = weights("lab/sd15", "sd15")
    (form,) = forms({None: 2.0})
    assert taught(form, heard) == form
    call = SeenCall(width=512, height=512, step=GIB, decode=3 * GIB, calls=2)
    calm = fit([form], SD15_NEEDS, "auto", free=4 * GIB, is_cuda=True)
    assert not calm.is_offloaded
    seen = taught(form, msgspec.structs.replace(heard, seen=[call]))
    found = fit([seen], SD15_NEEDS, "auto", free=4 * GIB, is_cuda=True)
    assert found.is_offloaded
    assert "corrected by what was seen at 512x512 (calls: 2)" in str(found)
    # Of other forms nothing was seen.
    other = Form("fp16", {"unet": 2 * GIB}, GIB // 10)
    assert fit([seen, other], SD15_NEEDS, "auto", free=4 * GIB, is_cuda=True).variant == "fp16"


def test_nothing_is_chosen_that_is_reckoned_over_what_is_free():
    for tenths in range(7, 500, 3):
        try:
            found = chosen(FLUX, FLUX_NEEDS, "auto", tenths / 10)
        except NoSpace:
            continue
        assert found.bytes <= tenths / 10 * GIB


def test_on_the_cpu_weights_have_nowhere_else_to_stay():
    assert not chosen(FLUX, FLUX_NEEDS, "low", 80, is_cuda=False).is_offloaded
    with pytest.raises(NoSpace, match="at least"):
        chosen(FLUX, FLUX_NEEDS, "auto", 8, is_cuda=False)


def test_what_fits_nowhere_is_told_with_its_least():
    with pytest.raises(NoSpace, match=r"needs 0.80 GiB at least, 0.50 GiB are free") as failed:
        chosen(FLUX, FLUX_NEEDS, "auto", 0.5)
    assert "--variant int8" in failed.value.hint


def test_the_choice_says_why():
    text = str(chosen(FLUX, FLUX_NEEDS, "auto", 22))
    assert "variant int8: 21.00 GiB of weights on the device" in text
    assert "in tiles" in text
    assert "of 22.00 GiB free: the first that fits" in text


def test_weights_that_are_on_the_device_already_cost_nothing_more():
    there = Form(None, {"transformer": 31 * GIB}, GIB // 10, is_there=True)
    found = fit([there], FLUX_NEEDS, "auto", free=2 * GIB, is_cuda=True)
    assert (found.is_offloaded, found.is_tiled) == (False, False)
    assert "on the device already" in str(found)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("auto", "auto"), ("low", "low"), (5, 5), ("6GiB", 6 * GIB), ("1.5 gb", 15 * 10**8)],
)
def test_what_memory_means(said, meant):
    assert parse(said) == meant


@pytest.mark.parametrize("said", [0, -1, True, "", "much", "6 XB", "0", None, 1.5, "9" * 400])
def test_what_memory_cannot_mean(said):
    with pytest.raises(UsageError, match="memory="):
        parse(said)
