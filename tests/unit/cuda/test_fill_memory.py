"""GPU memory that a worker fills and leaves: the real sequence of calls, against the stand-in."""

from __future__ import annotations

import pytest

from harness import cudakit

CHECKS = "harness.fill_checks"
SHARED = ("fill_is_what_was_put", "fill_refuses_what_does_not_fit", "fill_needs_room")
ALONE = ("fill_leaves_nothing_behind", "torch_without_cuda_is_told")


@pytest.fixture
def host(stand_ins):
    if cudakit.has_gpu():
        pytest.skip("this torch would show the stand-in's memory to a real GPU")
    return stand_ins


def test_fill(host):
    # In one process: what is left over by one would be counted by the next.
    cudakit.run(host, CHECKS, *SHARED, *ALONE)


def test_fill_that_cannot_be_exported_lets_its_memory_go(host):
    cudakit.run(host, CHECKS, "export_fails", STAND_IN_FAIL="cuMemExportToShareableHandle:1")
