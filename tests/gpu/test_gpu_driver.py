"""The checks that the stand-in passes, against the driver."""

from __future__ import annotations

import pytest

from harness import cudakit, vmm_checks

FILLS = ("fill_is_what_was_put", "fill_refuses_what_does_not_fit", "fill_needs_room")


@pytest.mark.parametrize("check", vmm_checks.SHARED, ids=lambda check: check.__name__)
def test_gpu_vmm(cuda, check):
    cudakit.run(None, "harness.vmm_checks", check.__name__)


@pytest.mark.parametrize("check", FILLS)
def test_gpu_fill(cuda, check):
    cudakit.run(None, "harness.fill_checks", check)


@pytest.mark.parametrize(
    "check",
    [
        "mapping_ends_with_its_last_view",
        "torch_and_nvml_name_the_same_gpu",
        "kernel_that_writes_ends_only_its_own_process",
        "memory_returns_when_the_last_descriptor_closes",
        "half_precision_views_are_in_place",
        "graphs_run_over_a_read_only_mapping",
        "template_can_be_forked_and_the_fork_has_cuda",
    ],
)
def test_gpu_mapping(cuda, check):
    cudakit.run(None, "harness.gpu_checks", check)
