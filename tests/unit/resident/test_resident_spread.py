"""Split resident pipelines by the daemon's residents, the planner and a real worker's code.

The GPUs are supposed: ``cpu:1`` and ``cpu:2`` in the plan, one CPU to torch. So components have
their doors and the denoiser its pieces, and images have to be stock's; that tensors lie on several
devices is seen under ``FakeTensorMode`` alone.
"""

import contextlib

import pytest
import torch

import zhcache
import zhcache.resident.standin
from harness import crossingkit, families
from harness.residentkit import House
from harness.storekit import open_store, publish
from harness.threadworkers import ThreadLauncher
from zhcache.errors import UsageError, WorkerDied
from zhcache.pipeline import reading, spread
from zhcache.placement.devices import RESERVE
from zhcache.placement.heard import model_of
from zhcache.protocol.names import parse_repo
from zhcache.protocol.placement import DeviceInfo, DeviceList
from zhcache.protocol.residency import Load
from zhcached.clock import SystemClock
from zhcached.convert.weighed import weighed
from zhcached.residency.launch.launch import chosen
from zhcached.workers import loading, spreading

REPO = "org/pipe"
GIVEN = {"num_inference_steps": 2, "width": 64, "height": 64}


@contextlib.contextmanager
def laboratory(folder, launcher):
    """Yields residents over supposed GPUs, which have room for these parts of the weights."""
    store = open_store(folder, SystemClock())
    source = families.folder("sd15")
    files = [path for path in source.rglob("*") if path.is_file()]
    publish(
        store,
        {str(path.relative_to(source)): path.read_bytes() for path in files},
        repo=parse_repo(REPO),
    )
    weights = weighed(store, REPO, None, None)
    model, _ = model_of(weights, None, 1)
    rooms: list[float] = []

    def look(*, kept):
        least = RESERVE + model.calls(model.parts, is_tiled=False)
        gpus = [
            DeviceInfo(name=f"cpu:{n}", uuid="", model="x", total=size, free=size)
            for n, room in enumerate(rooms, 1)
            for size in [least + int(model.bytes * room)]
        ]
        return DeviceList(devices=gpus, links=[], host_total=2**40, host_free=2**40)

    house = House(store, SystemClock(), launcher=launcher, look=look, keep_alive=0)
    house.rooms = rooms
    house.socket = house.listen(folder)
    try:
        yield house
    finally:
        house.end()
        store.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with laboratory(tmp_path_factory.mktemp("lab"), ThreadLauncher()) as house:
        yield house


def loading_from(lab, monkeypatch):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(lab.socket))

    def load(*rooms, placement="split"):
        lab.rooms[:] = rooms
        devices = [f"cpu:{n}" for n in range(1, len(rooms) + 1)]
        return zhcache.load_pipeline(REPO, mode="resident", device=devices, placement=placement)

    return load


@pytest.fixture
def split(lab, monkeypatch):
    return loading_from(lab, monkeypatch)


@pytest.fixture(scope="module")
def stock():
    from diffusers import DiffusionPipeline

    made = DiffusionPipeline.from_pretrained(str(families.folder("sd15")), local_files_only=True)
    made.set_progress_bar_config(disable=True)
    return made


def drawn(pipe, **more):
    """Returns the bytes of the image of a seed."""
    if isinstance(pipe, zhcache.resident.standin.ResidentPipeline):
        return pipe("a red house", seed=7, **GIVEN, **more).images[0].tobytes()
    seed = torch.Generator("cpu").manual_seed(7)
    return pipe("a red house", generator=seed, **GIVEN, **more).images[0].tobytes()


@pytest.mark.parametrize(
    ("rooms", "placement", "how"),
    [
        ((0.75, 0.75), "split", "apart"),
        ((0.42, 0.42, 0.42), "split", "sharded"),
        ((1.05,), "split", "freed"),
        ((0.5,), "offload", "streamed"),
        ((0.75, 0.75), "auto", "apart"),
    ],
)
def test_image_is_stocks_wherever_components_lie_and_the_plan_is_told(
    split, stock, rooms, placement, how
):
    with split(*rooms, placement=placement) as pipe:
        assert pipe.placement_report.how == how
        assert pipe.memory_report == str(pipe.placement_report)
        assert drawn(pipe) == drawn(stock)


@pytest.mark.slow
def test_process_that_is_shut_in_draws_as_stocks_does(tmp_path, monkeypatch, stock):
    with laboratory(tmp_path, chosen(tmp_path)) as lab:
        load = loading_from(lab, monkeypatch)
        for rooms, placement in (((0.42,) * 3, "split"), ((1.05,), "split"), ((0.5,), "offload")):
            with load(*rooms, placement=placement) as pipe:
                assert drawn(pipe) == drawn(stock)


def test_kin_of_a_split_pipeline_draws_as_stocks_does_and_a_lora_is_refused(split, stock):
    from diffusers import StableDiffusionImg2ImgPipeline
    from PIL import Image

    given = {"image": Image.new("RGB", (64, 64), "red"), "strength": 0.9}
    kin = StableDiffusionImg2ImgPipeline(**stock.components)
    kin.set_progress_bar_config(disable=True)
    with split(0.75, 0.75) as pipe:
        ours = pipe.using("StableDiffusionImg2ImgPipeline")
        made = ours(prompt="x", seed=3, num_inference_steps=2, **given).images[0]
        with pytest.raises(UsageError, match="load_lora_weights"):
            pipe.load_lora_weights("org/lora")
    seed = torch.Generator("cpu").manual_seed(3)
    theirs = kin(prompt="x", generator=seed, num_inference_steps=2, **given).images[0]
    assert made.tobytes() == theirs.tobytes()


def test_call_that_fails_or_dies_leaves_the_next_its_image_and_its_plan(lab, split, stock):
    def stop(*_):
        raise KeyboardInterrupt

    def die(*_):
        lab.launcher.started[-1].kill()

    with split(0.42, 0.42, 0.42) as pipe:
        with pytest.raises(KeyboardInterrupt):
            drawn(pipe, callback_on_step_end=stop)
        assert drawn(pipe) == drawn(stock)
        started = len(lab.launcher.started)
        with pytest.raises(WorkerDied, match=REPO):
            drawn(pipe, callback_on_step_end=die)
        lab.rooms[:] = (3.0, 3.0, 3.0)
        assert drawn(pipe) == drawn(stock)
        assert len(lab.launcher.started) == started + 1
        with split(3.0, 3.0, 3.0) as joined:
            assert joined.placement_report == pipe.placement_report


def plan_of_two(folder):
    return crossingkit.planned(reading.over_files(folder, {}), "split", (0.75, 0.75))


def test_worker_puts_components_on_the_plans_devices_and_crosses_them_at_doors(monkeypatch):
    folder, plain = families.folder("sd15"), spread.arrange
    plan = plan_of_two(folder)
    with contextlib.ExitStack() as stack:

        def arrange(*given):
            # Files are mapped for real.
            stack.enter_context(crossingkit.supposed_gpus())
            return plain(*given)

        monkeypatch.setattr(spread, "arrange", arrange)
        held = loading.load(Load(folder=str(folder), device="cpu:1", plan=plan), [], print)
        kin = held.as_class("StableDiffusionImg2ImgPipeline")
        assert str(held.device) == str(kin._execution_device) == plan.workers[0]
        lying = {str(one.device) for one in kin.vae.parameters()}
        assert lying == {plan.components["vae"].device} != {plan.workers[0]}
        made = crossingkit.taken_through("sd15", kin)
    assert {str(one.device) for one in made} == {plan.workers[0]}


def test_plans_devices_are_found_by_uuid_whatever_this_process_calls_them():
    plan = plan_of_two(families.folder("sd15"))
    for one in plan.devices:
        one.uuid = f"GPU-{one.name}"
    swapped = {"GPU-cpu:1": "cuda:1", "GPU-cpu:2": "cuda:0"}
    here = spreading.here(plan, swapped.__getitem__)
    names = {"cpu:1": "cuda:1", "cpu:2": "cuda:0"}
    assert here.workers == [names[name] for name in plan.workers]
    for name, part in plan.components.items():
        assert here.components[name].device == names[part.device]
        assert list(here.components[name].devices) == [names[each] for each in part.devices]
