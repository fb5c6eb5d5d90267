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
    "sd15:several",
    "sd15:from-image",
    "sd15:inpaint",
    "sdxl",
    "sd3",
    "pixart:fixed-size",
]
PLANNED = ["flux:odd-text", "qwen-image:negative"]
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
    return drawn(tmp_path_factory.mktemp("ranks"), [*GUIDED, *PLANNED, *REFUSED])


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
    assert told["way"] == "ulysses", told
    assert told["difference"] <= 1e-5
    assert told["ranks_agree"]


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_family_that_cannot_be_split_is_refused_by_every_rank(thorough, case):
    errors = thorough[case]["errors"]
    assert len(errors) == 2
    assert all("cannot be run over several devices" in one for one in errors)
