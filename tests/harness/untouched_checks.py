"""What imports may ask of GPUs without CUDA being started, checked in a process of its own.

``python -m harness.untouched_checks NAME...``. On a machine without a GPU the answers are invented.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch._dynamo import device_interface

from zhcache.forkserver.untouched import abilities, untouched

TOLD = [
    {"name": "one", "major": 9, "minor": 0},
    {"name": "other", "major": 8, "minor": 6},
]
NAMES = ("is_available", "device_count", "current_device", "get_device_properties")


def functions() -> list[Callable[..., object]]:
    return [getattr(torch.cuda, name) for name in NAMES]


def questions_are_answered() -> None:
    with untouched(lambda: TOLD):
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 2
        assert torch.cuda.current_device() == 0
        assert torch.cuda.get_device_capability() == (9, 0)
        for device in (1, "cuda:1", torch.device("cuda", 1)):
            assert torch.cuda.get_device_properties(device).name == "other"
    assert not torch.cuda.is_initialized()


def triton_is_found_as_torchao_asks_for_it() -> None:
    with untouched(lambda: TOLD):
        assert device_interface.CudaInterface.Worker.get_device_properties().major == 9
        assert "cuda" in device_interface.caching_worker_device_properties
    # What was answered without CUDA is not kept for those who compile.
    assert "cuda" not in device_interface.caching_worker_device_properties


def functions_that_were_kept_are_torchs_afterwards() -> None:
    before = functions()
    with untouched(lambda: TOLD):
        kept = functions()
    assert functions() == before
    is_available, device_count, *_ = kept
    assert (is_available(), device_count()) == (False, 0)


def more_is_asked_of_cuda() -> None:
    with untouched(lambda: TOLD):
        told = torch.cuda.get_device_properties(0)
        try:
            print(told.gcnArchName)
        except (RuntimeError, AssertionError):
            return
    raise AssertionError("it was not told, and CUDA cannot have been asked")


def nothing_is_changed_where_nothing_is_told() -> None:
    before = functions()
    assert not abilities()
    with untouched():
        assert functions() == before


def main(names: list[str]) -> None:
    """Runs checks, in this order."""
    for name in names:
        print(name, flush=True)
        check: Callable[[], None] = globals()[name]
        check()


if __name__ == "__main__":
    main(sys.argv[1:])
