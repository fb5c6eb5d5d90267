"""The GPUs' use through NVIDIA's own binding, on a driver that is a stand-in."""

import json

import pytest

from harness import cudakit

GIB = 2**30


@pytest.fixture(scope="module")
def libraries():
    if why := cudakit.lacking():
        pytest.skip(why)
    return cudakit.build()


def looks(libraries, *arguments, **environ):
    lines = cudakit.run(libraries, "harness.gpu_use", *arguments, **environ).splitlines()
    return [json.loads(line) for line in lines[-2:]]


def test_a_process_has_what_it_holds_on_all_gpus_together(libraries):
    first, second = looks(libraries, STAND_IN_USERS="41:1024:30 42:512:0")
    assert [(one["index"], one["busy"]) for one in first["devices"]] == [(0, 40.0), (1, 40.0)]
    assert first["devices"][1]["used"] == 69 * GIB
    # Twice, once for each GPU, though it stands in two lists of each.
    assert first["shares"]["41"] == {"vram": 2 * GIB, "busy": 60.0}
    # The driver leaves out who is idle: that is a nought it did say.
    assert first["shares"]["42"] == {"vram": GIB, "busy": 0.0}
    # Nothing new since the first look: idle, and holding memory all the same.
    assert second["shares"]["41"] == {"vram": 2 * GIB, "busy": 0.0}


def test_without_users_there_are_devices_and_no_processes(libraries):
    first, _ = looks(libraries)
    assert (len(first["devices"]), first["shares"]) == (2, {})


def test_a_divided_gpu_says_nothing_of_its_busy_time(libraries):
    first, _ = looks(libraries, STAND_IN_GPUS="1", STAND_IN_MIG="0", STAND_IN_USERS="41:1024:30")
    assert [one["uuid"][:4] for one in first["devices"]] == ["MIG-", "MIG-"]
    assert all("busy" not in one for one in first["devices"])
    assert first["shares"]["41"] == {"vram": 2 * GIB, "busy": None}


def test_a_lost_gpu_hides_no_other(libraries):
    first, _ = looks(libraries, STAND_IN_LOST="0")
    assert [one["name"] for one in first["devices"]] == ["Stand-in 1"]


def test_in_a_container_ids_of_the_machine_outside_name_nobody(libraries):
    first, _ = looks(libraries, "contained", STAND_IN_USERS="41:1024:30")
    assert (len(first["devices"]), first["shares"]) == (2, {})
