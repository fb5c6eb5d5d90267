"""Split pipelines: every crossing of devices is made at a door, and blocks keep to their shares."""

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import arenas, crossingkit, families
from zhcache.errors import NoSpace, UsageError
from zhcache.pipeline import crossing, placing, reading, spread
from zhcache.protocol.messages import Lease

APART = {"sd15": (0.75, 0.75), "sdxl": (0.75, 0.75), "flux": (0.65, 0.65)}
SHARDED = {"sd15": (0.7, 0.7), "sdxl": (0.5, 0.5, 0.5), "flux": (0.55, 0.55)}


def split(family, rooms, how):
    pipeline = reading.over_files(families.folder(family), {})
    plan = crossingkit.planned(pipeline, "split", rooms)
    assert plan.how == how
    return pipeline, plan


def arranged(pipeline, plan):
    with contextlib.ExitStack() as stack:
        stack.enter_context(crossingkit.supposed_gpus())
        spread.arrange(pipeline, plan)
        return stack.pop_all()


SLOW = pytest.mark.slow
EACH = [
    pytest.param("sd15", APART["sd15"], "apart"),
    pytest.param("flux", SHARDED["flux"], "sharded"),
    pytest.param("sdxl", SHARDED["sdxl"], "sharded", marks=SLOW),
    pytest.param("sd15", SHARDED["sd15"], "sharded", marks=SLOW),
    pytest.param("sdxl", APART["sdxl"], "apart", marks=SLOW),
    pytest.param("flux", APART["flux"], "apart", marks=SLOW),
    pytest.param("sd15", (1.05,), "freed"),
]


@pytest.mark.parametrize(("family", "rooms", "how"), EACH[:-1], ids=str)
def test_prompt_step_and_picture_cross_devices_only_at_doors(family, rooms, how):
    pipeline, plan = split(family, rooms, how)
    with arranged(pipeline, plan):
        lying = {
            str(one.device)
            for module in crossingkit.modules(pipeline).values()
            for one in (*module.parameters(), *module.buffers())
        }
        assert lying == {f"cpu:{n}" for n in range(1, len(rooms) + 1)}
        made = crossingkit.taken_through(family, pipeline)
    assert {str(one.device) for one in made} == {plan.workers[0]}


@pytest.mark.parametrize(
    ("component", "door"),
    [
        ("text_encoder", "layer"),
        ("vae", "decode"),
        pytest.param("text_encoder", "forward", marks=SLOW),
        pytest.param("vae", "encode", marks=SLOW),
    ],
)
def test_door_left_out_is_an_operation_on_two_devices(component, door):
    pipeline, plan = split("sd15", APART["sd15"], "apart")
    with arranged(pipeline, plan), pytest.raises(RuntimeError, match="same device"):
        module = getattr(pipeline, component)
        if door == "layer":
            _closed(getattr(module, "text_model", module).final_layer_norm)
        elif door == "forward":
            for layer in module.modules():
                _closed(layer)
        else:
            delattr(module, door)
        crossingkit.taken_through("sd15", pipeline)


@pytest.mark.parametrize("family", ["flux", pytest.param("sd15", marks=SLOW)])
def test_block_without_a_door_is_an_operation_on_two_devices(family):
    pipeline, plan = split(family, SHARDED[family], "sharded")
    with arranged(pipeline, plan), pytest.raises(RuntimeError, match="same device"):
        denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
        for block in denoiser.modules():
            _closed(block)
        crossingkit.taken_through(family, pipeline)


def _closed(module):
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(module)


@pytest.mark.parametrize("is_mapped", [pytest.param(True, marks=SLOW), False])
@pytest.mark.parametrize(("family", "rooms", "how"), EACH, ids=str)
def test_split_pipeline_draws_the_same_picture(family, rooms, how, is_mapped):
    """Real tensors know of one CPU: the doors are open, what they carry stays where it is."""
    folder = families.folder(family)
    plain = reading.over_files(folder, {})
    plan = crossingkit.planned(plain, "split", rooms)
    assert plan.how == how
    asked = []

    def hand(device, wanted, damaged):
        asked.append(sorted(wanted))
        return arenas.hand(folder)(device, wanted, damaged)

    homes = spread.homes(plan)
    pipeline = reading.over_places(folder, homes, {}, hand, None, is_mapped=is_mapped)
    # One request for each device, of what is there.
    by_home = [sorted(name for name in homes if homes[name] == at) for at in set(homes.values())]
    assert sorted(asked) == ([] if is_mapped else sorted(by_home))
    spread.arrange(pipeline, plan)
    assert torch.equal(
        torch.as_tensor(families.draw(pipeline)), torch.as_tensor(families.draw(plain))
    )


def test_offloaded_pipeline_draws_the_same_picture_and_says_why():
    folder = families.folder("sd15")
    plain = families.draw(reading.over_files(folder, {}))
    pipeline = reading.over_files(folder, {})
    spread.arrange(pipeline, crossingkit.planned(pipeline, "offload", (0.5,)))
    assert any(hasattr(part, "_diffusers_hook") for part in pipeline.unet.modules())
    assert torch.equal(torch.as_tensor(families.draw(pipeline)), torch.as_tensor(plain))
    assert "stay in host memory" in pipeline.memory_report
    assert pipeline.placement_report.placement == "offload"


def test_split_pipeline_stays_where_its_plan_put_it():
    pipeline, plan = split("sd15", APART["sd15"], "apart")
    spread.arrange(pipeline, plan)
    offloading = [
        name for name in dir(pipeline) if name.startswith("enable_") and "offload" in name
    ]
    assert len(offloading) == 3
    for call in ("to", "reset_device_map", "remove_all_hooks", *offloading):
        with pytest.raises(UsageError, match=rf"{call}\(\)"):
            getattr(pipeline, call)("cpu")


def test_pipeline_of_another_class_over_split_components_is_at_the_same_home():
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline, plan = split("sd15", APART["sd15"], "apart")
    spread.arrange(pipeline, plan)
    made = spread.follow(pipeline, StableDiffusionImg2ImgPipeline(**pipeline.components))
    assert made._execution_device == pipeline._execution_device == torch.device("cpu:1")
    with pytest.raises(UsageError, match="to"):
        made.to("cpu")


class Asked:
    """A client whose daemon sees GPUs with this much room; the planner is the real one."""

    def __init__(self, rooms):
        self.rooms, self.calls = rooms, []

    def plan(self, repo, *, variant, revision, devices, placement):
        self.calls.append((devices, placement))
        pipeline = reading.over_files(families.folder("flux"), {})
        return crossingkit.planned(pipeline, placement, self.rooms)


@pytest.mark.parametrize(
    ("rooms", "tried"), [((1.1, 1.1), ["single"]), (APART["flux"], ["single", "split"])]
)
def test_several_devices_are_planned_whole_on_one_or_else_split(rooms, tried):
    granted = Lease(id="l", repo="lab/tiny", commit="0" * 40, path="/", bytes=1)
    client = Asked(rooms)
    plan = placing.planned(client, granted, ["cpu:1", "cpu:2"], "auto")
    assert client.calls == [(["cpu:1", "cpu:2"], each) for each in tried]
    assert plan.placement == tried[-1]
    with pytest.raises(NoSpace, match="as split"):
        placing.planned(Asked((0.1, 0.1)), granted, ["cpu:1", "cpu:2"], "auto")


def test_one_device_is_not_planned_for():
    assert not placing.is_planned(["auto"], "auto")
    assert not placing.is_planned(["cuda:1"], "single")
    assert placing.is_planned(["auto"], "split")


def test_what_fits_nowhere_is_not_split():
    pipeline = reading.over_files(families.folder("sd15"), {})
    with pytest.raises(NoSpace, match="as split"):
        crossingkit.planned(pipeline, "split", (0.1, 0.1))


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.lists(st.integers(1, 100), min_size=1, max_size=5),
    st.integers(0, 20),
)
def test_piece_is_beyond_its_share_by_less_than_its_smallest_block(sizes, shares, rest):
    blocks = {"": rest} | {f"blocks.{n}": size for n, size in enumerate(sizes)}
    by_device = {f"cuda:{n}": share for n, share in enumerate(shares)}
    where = crossing.pieces(blocks, by_device)
    assert where.keys() == blocks.keys()
    assert where[""] == "cuda:0"
    for device, share in by_device.items():
        mine = [blocks[name] for name, at in where.items() if at == device and name]
        held = sum(mine) + (rest if device == "cuda:0" else 0)
        fair = share * sum(blocks.values()) / sum(shares)
        assert not mine or held - fair < min(mine)
