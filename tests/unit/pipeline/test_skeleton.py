"""Skeletons: without memory, in this thread alone, and without a word in the random numbers."""

import threading

import pytest
import torch

from harness import families
from zhcache.pipeline import skeleton


def test_modules_are_made_without_memory_and_without_initialising():
    with skeleton.Weightless(everything=False):
        linear = torch.nn.Linear(1 << 20, 1 << 20)
        torch.nn.init.trunc_normal_(linear.weight)
        torch.nn.init.xavier_uniform_(linear.weight)
        norm = torch.nn.BatchNorm2d(3)
    assert linear.weight.is_meta
    assert norm.weight.is_meta
    assert not norm.running_var.is_meta
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"


def test_everything_is_without_memory_except_what_is_read_off():
    with skeleton.Weightless(everything=True):
        assert torch.zeros(3).is_meta
        assert torch.tensor([1.0]).is_meta
        assert torch.arange(4).is_meta
        assert [round(x.item(), 1) for x in torch.linspace(0, 1, 3)] == [0.0, 0.5, 1.0]
        assert not torch.zeros(3, device="cpu").is_meta


def test_other_threads_make_real_tensors_meanwhile():
    inside, seen = threading.Event(), []
    done = threading.Event()

    def other():
        inside.wait(10)
        seen.append(torch.nn.Linear(3, 3).weight)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    initialise, register = torch.nn.init.kaiming_uniform_, torch.nn.Module.register_parameter
    with skeleton.Weightless(everything=True):
        inside.set()
        assert done.wait(10)
        assert torch.nn.init.kaiming_uniform_ is initialise
        assert torch.nn.Module.register_parameter is register
    thread.join()
    assert seen[0].device.type == "cpu"
    assert seen[0].any()


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_skeleton_has_no_weights_and_leaves_defaults_alone(family):
    folder = families.folder(family)
    before = torch.get_default_dtype()
    for name, (library, kind) in skeletons(folder):
        made = skeleton.build(folder / name, library, kind, torch.float16)
        memory = sum(p.numel() for p in made.parameters() if not p.is_meta)
        assert memory < 0.2 * sum(p.numel() for p in made.parameters()), name
        assert not made.training
    assert torch.get_default_dtype() is before


def skeletons(folder):
    from zhcache.pipeline.published import components, has_weights

    return [(n, kind) for n, kind in components(folder).items() if has_weights(folder / n)]
