"""What a prefetch with variants needs of a snapshot, and whether that is here."""

import pytest

from harness.storekit import manifest_of
from zhcache.errors import UsageError
from zhcache.protocol.messages import PrefetchRequest
from zhcached.convert.forecast import forecast
from zhcached.convert.recipe import BUILT_IN
from zhcached.jobs.prefetch import key_of
from zhcached.jobs.variants import Wanted, holds

SMALL = ["model_index.json", "unet/config.json", "vae/config.json"]
PLAIN = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")]
FP16 = [f"{part}/diffusion_pytorch_model.fp16.safetensors" for part in ("unet", "vae")]
NEEDLESS = ["v1-5-pruned.safetensors", "unet/diffusion_pytorch_model.bin"]


class Auto:
    """The configuration's policy."""

    def __init__(self, *names):
        self.names = names

    def auto(self, repo):
        return self.names if repo == "lab/tiny" else ()


def wanted(*asked, auto=()):
    return Wanted(PrefetchRequest(repo="lab/tiny", variants=list(asked)), Auto(*auto))


def test_variants_are_wanted_once_and_the_policy_s_apart():
    found = wanted("fp16", "int8", "fp16", auto=["int8", "bf16"])
    assert (found.asked, found.added) == (("fp16", "int8"), ("bf16",))


@pytest.mark.parametrize(
    ("asked", "auto", "precisions"),
    [
        ([], [], {None}),
        (["fp16"], [], {"fp16"}),
        (["int8"], [], {None}),
        (["fp16", "int8"], [], {"fp16", None}),
        ([], ["fp16"], {"fp16", None}),
        (["int8"], ["mine"], {None}),
    ],
)
def test_precisions_of_which_files_are_taken(asked, auto, precisions):
    assert wanted(*asked, auto=auto).precisions == precisions


def manifest(here, left_out=(), *, complete=False):
    return manifest_of(
        dict.fromkeys(here, b""), complete=complete, left_out=dict.fromkeys(left_out, "not read")
    )


@pytest.mark.parametrize(
    ("here", "left_out", "precisions", "is_held"),
    [
        (SMALL + PLAIN, NEEDLESS, [None], True),
        (SMALL + PLAIN, NEEDLESS + FP16, [None], True),
        (SMALL + FP16, PLAIN, [None], False),
        (SMALL + FP16, PLAIN, ["fp16"], True),
        (SMALL + FP16, PLAIN, ["fp16", None], False),
        # Made of the plain weights: nobody has to be asked for the published ones.
        (SMALL + PLAIN, FP16, ["fp16"], True),
        (SMALL + PLAIN[:1], PLAIN[1:], [None], False),
        (SMALL + PLAIN[:1] + FP16[1:], FP16[:1] + PLAIN[1:], ["fp16"], False),
        # Imported: nobody knows what is missing.
        (SMALL + PLAIN, [], [None], False),
    ],
)
def test_snapshot_with_holes_is_enough_if_the_pipeline_needs_no_more(
    here, left_out, precisions, is_held
):
    found = manifest(here, left_out)
    assert holds(found, precisions, only_pipeline=True) is is_held
    assert not holds(found, precisions, only_pipeline=False)


def test_complete_snapshot_is_enough_for_anything():
    found = manifest(SMALL, complete=True)
    assert holds(found, ["fp16"], only_pipeline=False)


def test_requests_for_other_variants_are_other_jobs_and_their_order_is_none():
    def key(*variants):
        return key_of(PrefetchRequest(repo="lab/tiny", variants=list(variants)))

    assert key("fp16", "int8") == key("int8", "fp16", "int8")
    assert len({key(), key("fp16"), key("int8"), key("fp16", "int8")}) == 4


SIZES = dict.fromkeys(SMALL, 10) | dict.fromkeys(PLAIN, 1000) | {NEEDLESS[0]: 10**9}


def test_forecast_tells_what_a_variant_would_be_made_of():
    found = forecast(SIZES, BUILT_IN["fp16"])
    assert (found.state, found.bytes, found.sources) == ("made", 1000, PLAIN)
    int8 = forecast(SIZES, BUILT_IN["int8"])
    assert (int8.bytes, int8.sources) == (300 + 500, PLAIN)


def test_forecast_of_what_is_published_adds_no_bytes():
    found = forecast(SIZES | dict.fromkeys(FP16, 500), BUILT_IN["fp16"])
    assert (found.state, found.bytes, found.sources) == ("published", 0, FP16)
    half = forecast(SIZES | {FP16[0]: 500}, BUILT_IN["fp16"])
    assert (half.state, half.bytes, half.sources) == ("made", 500, [FP16[0], PLAIN[1]])


def test_forecast_refuses_a_recipe_for_other_components():
    with pytest.raises(UsageError):
        forecast({"vae/diffusion_pytorch_model.safetensors": 1}, BUILT_IN["int8"])
