"""Imports in a process that is to be forked learn what the GPUs are and leave CUDA alone."""

from __future__ import annotations

import pytest

from harness import cudakit


@pytest.mark.skipif(cudakit.has_gpu(), reason="tests/gpu asks the GPU that is there")
@pytest.mark.parametrize(
    "check",
    [
        "questions_are_answered",
        "triton_is_found_as_torchao_asks_for_it",
        "functions_that_were_kept_are_torchs_afterwards",
        "more_is_asked_of_cuda",
        "nothing_is_changed_where_nothing_is_told",
    ],
)
def test_untouched(check):
    cudakit.run(None, "harness.untouched_checks", check)
