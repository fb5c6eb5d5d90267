"""What is planned for one image on several devices is what the workers do then."""

import re
from dataclasses import replace

import pytest

from harness.placementkit import PIPELINES, PUBLISHED, machine, model
from zhcache.errors import UsageError
from zhcache.placement.cuts import Cut, Denoiser, check_gathered, check_masked, choose
from zhcache.placement.families import FAMILIES, family_of
from zhcache.placement.parallel import shared
from zhcache.placement.plan import decide

NAMES = {"cfg": "guidance", "ulysses": "ulysses"}
LINKED = "@nvlink"


def on(count, link=LINKED):
    return machine(",".join(["80GiB"] * count) + link)


def taken(one, count):
    """Returns how workers cut the image of ``one`` among ``count``, None where they refuse it."""
    denoiser = Denoiser(
        one.family.name, one.pipeline or one.family.name, one.family.has_plan, one.heads or None
    )
    try:
        cut = choose(denoiser, count)
        if one.family.masks == "always":
            check_masked(one.family.name, cut, count, {one.family.text, one.tokens})
    except UsageError:
        return None
    return cut


def agrees(one, count):
    """Checks that as many share the image as workers let; returns how many."""
    most = next((n for n in range(count, 1, -1) if taken(one, n)), None)
    if most is None:
        with pytest.raises(UsageError):
            shared(one, on(count))
        return 0
    found = shared(one, on(count))
    assert (found.how, len(found.workers)) == (NAMES[taken(one, most).name], most)
    assert any("of different lengths" not in note.template for note in found.notes) is (
        most < count
    )
    return most


@pytest.mark.parametrize("name", PUBLISHED)
def test_plan_and_workers_agree(name):
    shares = [agrees(model(name), count) for count in range(2, 9)]
    if not model(name).family.has_plan:
        assert shares == [2 if name in PIPELINES and name != "zimage" else 0] * 7


@pytest.mark.parametrize("kind", [kind for kind, one in FAMILIES.items() if one.has_plan])
@pytest.mark.parametrize("heads", [0, 1, 2, 24, 32, 38, 40])
def test_plan_and_workers_agree_whatever_the_heads_and_masks(kind, heads):
    for tokens in (7392, 4097, 6):
        one = replace(model("flux"), family=family_of(kind), heads=heads, tokens=tokens)
        for count in range(2, 9):
            agrees(one, count)


@pytest.mark.parametrize(
    ("name", "count", "link", "workers", "words"),
    [
        ("flux", 7, LINKED, 6, "the 24 heads of FLUX.1 cannot be shared by 7 devices"),
        (
            "sd15",
            3,
            LINKED,
            2,
            "guidance of StableDiffusionPipeline is split over 2 devices, not 3",
        ),
        ("sd15", 8, "", 2, "is split over 2 devices, not 8"),
        ("flux", 8, "", 4, "more devices help little"),
        ("qwen", 3, LINKED, 3, "need a seed for each image"),
    ],
)
def test_plan_says_why_not_all_share_the_image(name, count, link, workers, words):
    found = decide(model(name), on(count, link), "parallel")
    assert len(found.way.workers) == workers
    told = [note.template.format(**note.values) for note in found.reason]
    assert any(words in each for each in told), told
    left = [f"gpu{n}" for n in range(workers, count)]
    assert not left or f"{', '.join(left)} is left out" in told


def test_two_devices_have_nothing_left_out_and_nothing_to_mind():
    for name in ("sd15", "flux", "qwen"):
        assert not shared(model(name), on(2)).notes


def test_film_whose_texts_are_always_masked_is_shared_by_as_many_as_keep_the_mask_in_place():
    film = replace(model("flux"), family=FAMILIES["LTXVideoTransformer3DModel"], heads=40)
    found = shared(replace(film, tokens=7392), on(5))
    assert len(found.workers) == 4
    assert "masks a part of the texts" in found.notes[0].template


def test_cpus_share_what_divides_by_them_alone():
    asked = model("flux", size=(1024, 1024))
    assert shared(asked, machine("cpu,cpu,cpu")).workers == ["cpu", "cpu"]
    assert shared(asked, machine("cpu,cpu")).notes == []
    tall = model("flux", size=(1024, 1008))
    assert len(shared(tall, machine("cpu,cpu,cpu")).workers) == 3
    with pytest.raises(UsageError, match="3969 tokens of 16x16 pixels"):
        shared(model("flux", size=(1008, 1008)), machine("cpu,cpu"))


def test_what_workers_cannot_do_is_refused_with_a_next_step():
    for name in ("zimage", "hunyuan"):
        with pytest.raises(UsageError, match="cannot be shared") as told:
            shared(model(name), on(2))
        assert "replicate" in told.value.hint
    with pytest.raises(UsageError, match="not two of them"):
        shared(model("flux"), on(1))


def test_size_that_gloo_cannot_gather_is_refused_with_one_that_it_can():
    check_gathered("X", 64, 2, 16)
    with pytest.raises(UsageError, match=r"X has 25 tokens of 16x16 .* 2 CPUs") as told:
        check_gathered("X", 25, 2, 16)
    (multiple,) = re.findall(r"multiple of (\d+)", told.value.hint)
    assert multiple == "32"


def test_hint_of_a_mask_that_is_always_there_is_another_number():
    for kind, words in (
        ("LTXVideoTransformer3DModel", "name 2 | 3 | 4 devices"),
        ("QwenImageTransformer2DModel", "give a seed for each image"),
    ):
        with pytest.raises(UsageError) as told:
            check_masked(kind, Cut("ulysses", ""), 5, {128, 7392})
        assert told.value.hint.startswith(words)
