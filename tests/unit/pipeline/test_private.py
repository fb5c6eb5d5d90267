"""Weights that cannot be written are copied before something writes them.

Read-only memory is told apart by its place. Here it is writable memory that is noted as read-only,
so that a write that should not happen is seen in the arena instead of ending the process.
"""

import copy
from pathlib import Path

import pytest
import torch

import zhcache
from harness import arenas
from zhcache.errors import UsageError
from zhcache.pipeline import attach, mapping, private


@pytest.fixture
def unet(pipeline_dir: Path, monkeypatch):
    """A module over memory that counts as read-only."""
    map_pages = mapping._map_pages
    monkeypatch.setattr(
        mapping, "_map_pages", lambda arena, fd: mapping.note(map_pages(arena, fd), read_only=True)
    )
    with arenas.held(pipeline_dir, names=["unet"]) as got:
        made = attach.components(pipeline_dir, got)["unet"]
        kept = {name: p.detach().clone() for name, p in made.named_parameters()}
        views = {name: p.data for name, p in made.named_parameters()}
        yield made
        # Whatever the test did, the arena has what it had.
        assert all(torch.equal(view, kept[name]) for name, view in views.items())


def test_load_state_dict_loads_into_copies_of_what_it_names(unet):
    weight, other = unet.conv_in.weight, unet.conv_out.weight
    assert mapping.is_read_only(weight)
    unet.conv_in.load_state_dict({k: v + 1 for k, v in unet.conv_in.state_dict().items()})
    assert unet.conv_in.weight is weight
    assert not mapping.is_shared(weight)
    assert mapping.is_read_only(other)
    unet.load_state_dict({k: v * 2 for k, v in unet.state_dict().items()})
    assert not mapping.is_shared(other)


def test_load_state_dict_that_assigns_copies_nothing(unet):
    place = unet.conv_in.weight.data_ptr()
    state = {k: v.clone() for k, v in unet.conv_in.state_dict().items()}
    unet.conv_in.load_state_dict(state, assign=True)
    assert unet.conv_in.weight.data_ptr() == state["weight"].data_ptr() != place


def test_optimizer_steps_on_copies(unet):
    weight = unet.conv_in.weight
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    (weight * weight).sum().backward()
    optimizer.step()
    assert not torch.equal(weight, before)
    assert not mapping.is_shared(weight)
    assert mapping.is_read_only(unet.conv_out.weight)


def test_make_private_keeps_parameters_and_content(unet):
    parameters = dict(unet.named_parameters())
    content = {name: p.detach().clone() for name, p in parameters.items()}
    assert zhcache.make_private(unet) is unet
    for name, p in unet.named_parameters():
        assert p is parameters[name]
        assert torch.equal(p, content[name])
        assert not mapping.is_shared(p)
    with torch.no_grad():
        unet.conv_in.weight.mul_(2)


def test_make_private_takes_modules_and_pipelines_alone(unet):
    with pytest.raises(UsageError, match="neither a module nor a pipeline"):
        zhcache.make_private({"unet": unet})


def test_copies_and_casts_are_private_already(unet):
    assert not mapping.is_shared(copy.deepcopy(unet).conv_in.weight)
    assert not mapping.is_shared(unet.conv_in.weight.detach().to(torch.float16))
    assert mapping.is_read_only(unet.conv_in.weight.detach())


class Adapted(torch.nn.Module):
    """A layer as PEFT wraps one: it fuses by adding to the base layer's weight in place."""

    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    def merge(self) -> None:
        self.base_layer.weight.data.add_(1)


def test_fusing_copies_the_weights_below_adapters_alone(unet):
    from diffusers import StableDiffusionPipeline

    from zhcache.pipeline.leased import _leased_kind

    class Fusing(StableDiffusionPipeline):
        def __init__(self, module: torch.nn.Module) -> None:
            self.components_given = {"unet": module}

        @property
        def components(self):
            return self.components_given

        def fuse_lora(self, scale: float = 1.0) -> str:
            for part in self.components["unet"].modules():
                if isinstance(part, Adapted):
                    part.merge()
            return f"fused by {scale}"

    unet.conv_in = Adapted(unet.conv_in)
    pipeline = _leased_kind(Fusing)(unet)
    assert pipeline.fuse_lora(scale=2.0) == "fused by 2.0"
    assert not mapping.is_shared(unet.conv_in.base_layer.weight)
    assert mapping.is_read_only(unet.conv_out.weight)


def test_lora_fuses_and_leaves_shared_weights_as_they_are(unet):
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    private.before_fusing(type("P", (), {"components": {"unet": unet}})())
    unet.fuse_lora()
    queries = [p for name, p in unet.named_parameters() if "to_q.base_layer" in name]
    assert queries
    assert not any(mapping.is_shared(p) for p in queries)
