"""Imports in a process that is to be forked learn what the GPUs are and leave CUDA alone."""

from __future__ import annotations

import pytest

from harness import cudakit


@pytest.mark.skipif(cudakit.has_gpu(), reason="tests/gpu asks the GPU that is there")
def test_untouched():
    # In one process: what they import is seconds of work, and each leaves torch as it was.
    cudakit.run(
        None,
        "harness.untouched_checks",
        "nothing_is_changed_where_nothing_is_told",
        "questions_are_answered",
        "triton_is_found_as_torchao_asks_for_it",
        "functions_that_were_kept_are_torchs_afterwards",
        "more_is_asked_of_cuda",
    )
