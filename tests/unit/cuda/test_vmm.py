"""Memory as descriptors: our sequence of driver calls, run for real against the stand-in."""

from __future__ import annotations

import pytest

from harness import cudakit, vmm_checks

CHECKS = "harness.vmm_checks"


@pytest.mark.parametrize("check", vmm_checks.SHARED, ids=lambda check: check.__name__)
def test_vmm(stand_ins, check):
    cudakit.run(stand_ins, CHECKS, check.__name__)


def test_vmm_leaves_nothing_and_waits_for_queued_work_before_it_unmaps(stand_ins):
    cudakit.run(stand_ins, CHECKS, "nothing_is_left")


def test_vmm_forked_child_leaves_the_parents_memory_alone(stand_ins):
    cudakit.run(stand_ins, CHECKS, "child_leaves_it_mapped")


# Each call between nothing and a mapping, at its first use and at the reader's.
STEPS = (
    "cuMemGetAllocationGranularity:1",
    "cuMemCreate:1",
    "cuMemAddressReserve:1",
    "cuMemAddressReserve:2",
    "cuMemMap:1",
    "cuMemMap:2",
    "cuMemSetAccess:1",
    "cuMemSetAccess:2",
    "cuMemExportToShareableHandle:1",
    "cuMemImportFromShareableHandle:1",
    "cuDevicePrimaryCtxRetain:1",
)


@pytest.mark.parametrize("step", STEPS)
def test_vmm_undoes_what_went_before_a_failed_step(stand_ins, step):
    cudakit.run(stand_ins, CHECKS, "failed_step_leaves_nothing", STAND_IN_FAIL=step)


@pytest.mark.parametrize("step", ["cuDevicePrimaryCtxRetain:1", "cuMemCreate:1", "cuMemMap:1"])
def test_vmm_tells_of_a_full_device_whatever_lacks_memory(stand_ins, step):
    environ = {"STAND_IN_FAIL": step, "STAND_IN_STATUS": "2"}
    cudakit.run(stand_ins, CHECKS, "full_device_is_no_space", **environ)


def test_vmm_keeps_addresses_that_queued_work_may_still_read(stand_ins):
    environ = {"STAND_IN_FAIL": "cuCtxSynchronize:1"}
    cudakit.run(stand_ins, CHECKS, "failed_wait_leaves_it_mapped", **environ)


def test_vmm_counts_devices_as_the_environment_orders_them(stand_ins):
    environ = {"CUDA_VISIBLE_DEVICES": "1"}
    cudakit.run(stand_ins, CHECKS, "order_is_the_environments", **environ)


def test_vmm_tells_of_a_driver_that_does_not_start(stand_ins):
    cudakit.run(stand_ins, CHECKS, "driver_does_not_start", STAND_IN_FAIL="cuInit:1")


def test_vmm_tells_of_a_machine_without_a_driver(stand_ins, tmp_path):
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        cudakit.run(None, CHECKS, "driver_is_missing")
    else:
        pytest.skip("this machine has a CUDA driver")
