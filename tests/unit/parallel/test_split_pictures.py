"""Two processes that split a denoiser on gloo draw what one process draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

QUICK = ["sd15", "sd15:unguided", "flux"]
GUIDED = [
    "sd15:controlled",
    "sd15:guessing",
    "sd15:ancestral",
    "sd15:several",
    "sd15:from-image",
    "sd15:inpaint",
    "sdxl",
    "sd3",
    "pixart:fixed-size",
]
PLANNED = {
    "flux:odd-text": "ulysses",
    "qwen-image:negative": "ulysses",
    "qwen-image:uneven-texts": "ulysses",
    "qwen-image:uneven-texts:3": "ulysses",
    "qwen-image:ring": "ring",
}
MASKED = ["qwen-image:shifted-texts:3", "qwen-image:ring-uneven-texts"]
ODD = ["flux:odd-size", "qwen-image:odd-size"]
REFUSED = ["lumina", "z-image"]


def drawn(folder: Path, cases: list[str]) -> dict[str, dict]:
    path = os.pathsep.join(str(ROOT / one) for one in ("", "tests", "daemon", "examples"))
    done = subprocess.run(
        [sys.executable, "-m", "harness.ranked", folder, *cases],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["case"] for one in told] == cases, done.stderr
    return {one.pop("case"): one for one in told}


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> dict[str, dict]:
    return drawn(tmp_path_factory.mktemp("ranks"), QUICK)


@pytest.fixture(scope="module")
def thorough(tmp_path_factory) -> dict[str, dict]:
    return drawn(tmp_path_factory.mktemp("ranks"), [*GUIDED, *PLANNED, *MASKED, *ODD, *REFUSED])


def test_split_guidance_draws_the_same_picture_after_eight_steps(quick):
    told = quick["sd15"]
    assert told["way"] == "cfg", told
    assert told["splits"] == 8
    assert told["difference"] <= 1e-4
    assert told["ranks_agree"]


def test_call_without_guidance_is_made_whole_by_each(quick):
    told = quick["sd15:unguided"]
    assert told["splits"] == 0, told
    assert told["difference"] == 0


def test_ulysses_draws_the_same_picture(quick):
    told = quick["flux"]
    assert told["way"] == "ulysses", told
    assert told["difference"] <= 1e-5
    assert told["ranks_agree"]


@pytest.mark.slow
@pytest.mark.parametrize("case", GUIDED)
def test_guidance_of_other_pipelines_is_split(thorough, case):
    told = thorough[case]
    assert told["splits"] > 0, told
    # Latents of random weights grow large; sdxl's reach 200.
    assert told["difference"] <= 1e-4 * max(1.0, told["spread"] / 10)
    assert told["ranks_agree"]


@pytest.mark.slow
@pytest.mark.parametrize("case", PLANNED)
def test_sequences_and_heads_that_do_not_divide_are_split_all_the_same(thorough, case):
    told = thorough[case]
    assert told["way"] == PLANNED[case], told
    assert told["difference"] <= 1e-5
    assert told["ranks_agree"]


@pytest.mark.slow
@pytest.mark.parametrize("case", MASKED)
def test_mask_that_would_be_laid_over_other_tokens_is_refused_by_every_rank(thorough, case):
    errors = thorough[case]["errors"]
    assert len(errors) == (3 if case.endswith(":3") else 2)
    assert all("would mask another" in one for one in errors), errors


@pytest.mark.slow
@pytest.mark.parametrize("case", ODD)
def test_size_that_cpus_cannot_put_together_again_is_refused_by_every_rank(thorough, case):
    told = thorough[case]
    assert len(told["errors"]) == 2
    for one in told["errors"]:
        assert "UsageError" in one
        assert "25 tokens of 16x16 pixels here, which 2 CPUs cannot share" in one
        assert "a multiple of 32," in one


@pytest.mark.slow
def test_every_plan_has_its_parts_checked_where_they_are_made():
    import diffusers
    import torch

    from zhcache.errors import UsageError
    from zhcache.placement.families import FAMILIES
    from zhcached.workers.parallel.context import check_parts

    for kind in [kind for kind, one in FAMILIES.items() if one.has_plan]:
        with torch.device("meta"):
            one = getattr(diffusers, kind)(num_layers=1)
        check_parts(one, 2, 16)
        hooks = [hook for part in one.modules() for hook in part._forward_pre_hooks.values()]
        assert hooks, kind
        for hook in hooks:
            hook(one, (torch.empty(1, 8, 4),), {})
            hook(one, (torch.empty(1, 4, 3, 5, 5),), {})
            with pytest.raises(UsageError, match=f"{kind} has 25 tokens of 16x16 pixels"):
                hook(one, (), {"hidden_states": torch.empty(1, 25, 4)})


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_family_that_cannot_be_split_is_refused_by_every_rank(thorough, case):
    errors = thorough[case]["errors"]
    assert len(errors) == 2
    assert all("cannot be shared" in one for one in errors)
