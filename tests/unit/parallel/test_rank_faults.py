"""What becomes of a call, and of the worker, when ranks do not do the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.crewed import PROMPT

pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
REFUSED = f"usage: the pipeline refused its arguments: ValueError: of no use: {PROMPT}"
RAISED = "failed: the pipeline failed: RuntimeError: rank {} raises"

# What the front is told, and how the worker ends.
TOLD = {
    "both draw": (["Loaded", "Returned", "Returned"], 0),
    "both raise": (["Loaded", RAISED.format(0), "Returned"], 0),
    "rank 1 raises alone": (["Loaded", RAISED.format(1), "end"], 1),
    "rank 0 raises alone": (["Loaded", RAISED.format(0), "end"], 1),
    "rank 1 refuses alone": (["Loaded", REFUSED, "end"], 1),
    "rank 1 refuses once all is done": (["Loaded", "Returned", "Returned"], 0),
    "rank 1 dies": (
        [
            "Loaded",
            "worker_died: rank 1 of 2, on cpu, ended: it was killed by SIGKILL, as the kernel does"
            " when memory runs out",
            "end",
        ],
        1,
    ),
    "rank 1 does not end": (
        [
            "Loaded",
            "worker_died: rank 1, on cpu, did not end the call when the others did",
            "end",
        ],
        1,
    ),
    "rank 1 raises once all is done": (["Loaded", "Returned", "Returned"], 0),
    "rank 1 cannot load": (
        ["usage: the pipeline refused its arguments: ValueError: rank 1 cannot"],
        0,
    ),
    "rank 1 dies between calls": (["Loaded", "Returned", "end"], 1),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> dict[str, dict]:
    path = os.pathsep.join(str(ROOT / one) for one in ("", "tests", "daemon", "examples"))
    done = subprocess.run(
        [sys.executable, "-m", "harness.crewed", tmp_path_factory.mktemp("crew"), *TOLD],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(TOLD), done.stderr
    return {one["scenario"]: {**one, "words": done.stderr} for one in told}


@pytest.mark.parametrize("scenario", TOLD)
def test_front_is_told_why_and_the_worker_goes_on_only_where_it_can(played, scenario):
    told, ended = TOLD[scenario]
    assert (played[scenario]["told"], played[scenario]["ended"]) == (told, ended)


def test_words_of_a_refusal_which_may_quote_a_prompt_stay_out_of_the_log(played):
    words = played["rank 1 refuses alone"]["words"]
    assert "the ranks give up" in words
    assert "failed after the call" in words
    assert PROMPT not in words


def test_what_has_no_seed_is_drawn_alike_by_all_ranks_and_anew_in_each_call(played):
    first_0, first_1, second_0, second_1 = played["both draw"]["drawn"]
    assert first_0 == first_1
    assert second_0 == second_1
    assert first_0 != second_0
