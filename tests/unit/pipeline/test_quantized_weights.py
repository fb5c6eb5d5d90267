"""Quantized weights over arenas: what a table may ask for, and who may write into them.

That read-only memory is told apart by its place is for ``test_private`` to say.
"""

import copy
from types import SimpleNamespace

import msgspec
import pytest
import torch

from harness import arenas, quantized
from zhcache.errors import IntegrityError, UsageError, VersionMismatch
from zhcache.pipeline import attach, mapping, private, wrapping
from zhcache.protocol.residency import Arena, Table, Wrapped
from zhcached.workers.layout import lay_out
from zhcached.workers.weights import Weights

FLOAT8 = Wrapped(class_name="Float8Tensor", tensors={}, dtype="bfloat16", block_size=[1, 2])


@pytest.fixture(scope="module", params=["int8", "fp8"])
def folder(request):
    return quantized.folder("sd15", request.param)


@pytest.fixture
def held(folder):
    with arenas.held(folder, names=["unet"]) as got:
        yield got


@pytest.fixture
def unet(folder, held, monkeypatch):
    """A module over memory that counts as read-only."""
    map_pages = mapping._map_pages
    monkeypatch.setattr(
        mapping, "_map_pages", lambda arena, fd: mapping.note(map_pages(arena, fd), read_only=True)
    )
    made = attach.components(folder, held)["unet"]
    views = [part for one in made.parameters() for part in wrapping.memory(one)]
    kept = [view.clone() for view in views]
    yield made
    # Whatever the test did, the arena has what it had.
    assert all(same(view, one) for view, one in zip(views, kept, strict=True))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.detach().view(torch.uint8), other.detach().view(torch.uint8))


def linear(unet) -> torch.nn.Module:
    return unet.time_embedding.linear_1


def refused(folder, held, change) -> str:
    arena, fd = held[0]
    arena = msgspec.json.decode(msgspec.json.encode(arena), type=Arena)
    change(arena.table, next(iter(arena.table.wrapped.values())))
    with pytest.raises((VersionMismatch, IntegrityError)) as caught:
        attach.components(folder, [(arena, fd)])
    return f"{type(caught.value).__name__}: {caught.value}"


def test_class_that_is_not_named_here_is_not_read_at_all(held):
    told = msgspec.json.encode(held[0][0])
    kind = next(iter(held[0][0].table.wrapped.values())).class_name.encode()
    assert told.count(kind) > 1
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value"):
        msgspec.json.decode(told.replace(kind, b"NF4Tensor"), type=Arena)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "load"),
        ("dtype", "int8"),
        ("block_size", [1]),
        ("class_name", "the other"),
    ],
)
def test_recipe_that_fits_no_tensor_is_refused(folder, held, name, value):
    def change(_, wrapped):
        others = {"Int8Tensor": "Float8Tensor", "Float8Tensor": "Int8Tensor"}
        setattr(wrapped, name, others[wrapped.class_name] if value == "the other" else value)

    said = refused(folder, held, change)
    assert said.startswith("IntegrityError: the memory handed over holds no")
    assert next(iter(held[0][0].table.wrapped)) in said


@pytest.mark.parametrize("change", [{"kernel": "os"}, {"matmul": {"system": True}}])
def test_attributes_are_of_a_closed_set(change):
    parts = {"qdata": torch.zeros(2, 2, dtype=torch.float8_e4m3fn), "scale": torch.ones(2, 1)}
    wrapping.rebuilt("w", FLOAT8, parts)
    with pytest.raises(IntegrityError, match="holds no Float8Tensor for w"):
        wrapping.rebuilt("w", msgspec.structs.replace(FLOAT8, **change), parts)


def test_part_that_is_lost_is_refused(folder, held):
    def change(table, wrapped):
        lost = wrapped.tensors["scale"]
        table.tensors = [one for one in table.tensors if one.name != lost]

    assert refused(folder, held, change).startswith("IntegrityError: the memory handed over")


def test_part_outside_the_memory_is_refused(folder, held):
    def change(table, wrapped):
        for one in table.tensors:
            if one.name == wrapped.tensors["qdata"]:
                one.offset = held[0][0].bytes

    assert "would lie at" in refused(folder, held, change)


def test_class_that_is_not_shared_is_named_by_the_worker():
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    module = torch.nn.Sequential(torch.nn.Linear(32, 32))
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    table = Table(component="unet", library="torch", class_name="Sequential", tensors=[])
    with pytest.raises(UsageError, match="Int8Tensor is no class of tensors that is shared"):
        lay_out(module, table)


def test_make_private_keeps_parameters_and_content(unet):
    weight = linear(unet).weight
    before = [part.clone() for part in wrapping.memory(weight)]
    assert mapping.is_read_only(weight)
    private.make_private(unet)
    assert linear(unet).weight is weight
    assert not mapping.is_shared(weight)
    assert all(map(same, wrapping.memory(weight), before))


def test_load_state_dict_loads_into_copies(unet):
    state = copy.deepcopy(linear(unet).state_dict())
    for part in wrapping.memory(state["weight"]):
        part.view(torch.uint8).bitwise_xor_(1)
    linear(unet).load_state_dict(state)
    assert not mapping.is_shared(linear(unet).weight)
    assert same(linear(unet).weight.qdata, state["weight"].qdata)


def test_resident_worker_gives_parts_back_and_counts_their_bytes(unet):
    kept = Weights(SimpleNamespace(components={"unet": unet}))
    held = {p.data_ptr(): p.nbytes for one in unet.parameters() for p in wrapping.memory(one)}
    assert kept.bytes == sum(held.values())
    weight, scale = linear(unet).weight, linear(unet).weight.scale
    weight.scale = torch.ones_like(scale)
    kept.restore()
    assert weight.scale is scale
