"""Modules over arenas: what is refused, what is asked for, what the user may do with them."""

import copy
import weakref
from pathlib import Path

import msgspec
import pytest
import torch

from harness import arenas, families
from zhcache.errors import IntegrityError, UsageError, VersionMismatch
from zhcache.pipeline import attach, mapping, reading

CPU = torch.device("cpu")


@pytest.fixture
def held(pipeline_dir: Path):
    with arenas.held(pipeline_dir) as got:
        yield got


def of(held, component: str):
    return next((arena, fd) for arena, fd in held if arena.table.component == component)


def refused(folder, held, change) -> str:
    arena, fd = of(held, "unet")
    arena = msgspec.json.decode(msgspec.json.encode(arena), type=type(arena))
    change(arena.table)
    with pytest.raises((VersionMismatch, IntegrityError)) as caught:
        attach.components(folder, [(arena, fd)])
    return f"{type(caught.value).__name__}: {caught.value}"


def test_table_with_a_tensor_too_many_names_the_versions_of_both(held, pipeline_dir):
    def change(table):
        table.versions = {"torch": "9.9", "diffusers": "7.7"}
        table.tensors.append(msgspec.structs.replace(table.tensors[0], name="conv_new.weight"))

    said = refused(pipeline_dir, held, change)
    assert said.startswith("VersionMismatch: unet")
    assert "diffusers 7.7, torch 9.9" in said
    assert torch.__version__ in said
    assert "conv_new.weight" in said


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_table_that_lacks_a_tensor_is_refused(held, pipeline_dir, kind):
    component = {"parameter": "unet", "buffer": "text_encoder"}[kind]
    arena, fd = of(held, component)
    lost = next(t for t in arena.table.tensors if t.kind == kind)
    arena.table.tensors.remove(lost)
    with pytest.raises(VersionMismatch, match=lost.name):
        attach.components(pipeline_dir, [(arena, fd)])


def test_table_with_another_shape_is_refused(held, pipeline_dir):
    def change(table):
        table.tensors[0].shape = [1]
        table.tensors[0].strides = [1]

    assert "is [1]" in refused(pipeline_dir, held, change)


@pytest.mark.parametrize("offset", [1, -512, 2**40])
def test_tensor_outside_the_memory_is_refused(held, pipeline_dir, offset):
    def change(table):
        table.tensors[0].offset = offset

    assert refused(pipeline_dir, held, change).startswith("IntegrityError")


def test_tensor_that_would_run_over_the_end_is_refused(held, pipeline_dir):
    def change(table):
        last = max(table.tensors, key=lambda one: one.offset)
        last.strides = [2**30 for _ in last.strides]

    assert refused(pipeline_dir, held, change).startswith("IntegrityError")


def test_class_of_another_library_is_not_imported(held, pipeline_dir, monkeypatch):
    arena, fd = of(held, "unet")
    for library, name in (("os", "system"), ("transformers", "CLIPConfig"), ("diffusers", "nn")):
        arena.table.library, arena.table.class_name = library, name
        with pytest.raises(UsageError, match="no module whose weights"):
            attach.components(pipeline_dir, [(arena, fd)])


def test_changed_memory_is_asked_for_once_more_and_then_refused(pipeline_dir):
    asked = []

    def hand(device, wanted, damaged):
        asked.append((device, tuple(wanted), tuple(damaged)))
        got = arenas.filled(pipeline_dir, wanted, device)
        got[0][0].checksum = "wrong"
        return got

    with pytest.raises(IntegrityError, match="key-of-unet"):
        attach.shared(pipeline_dir, CPU, ["unet"], hand)
    assert asked == [("cpu", ("unet",), ()), ("cpu", ("unet",), ("key-of-unet",))]


def test_memory_filled_anew_is_taken(pipeline_dir, monkeypatch):
    mapped, real = [], mapping.map_all

    def watched(got):
        found = real(got)
        mapped.extend(weakref.ref(flat) for _, flat in found)
        return found

    monkeypatch.setattr(mapping, "map_all", watched)

    def hand(device, wanted, damaged):
        # The daemon has made no room for the damaged ones beside the new.
        assert not any(flat() is not None for flat in mapped)
        got = arenas.filled(pipeline_dir, wanted, device)
        if not damaged:
            got[0][0].checksum = "wrong"
        return got

    assert set(attach.shared(pipeline_dir, CPU, ["vae"], hand)) == {"vae"}
    assert len(mapped) == 2


def test_components_of_the_users_own_are_not_asked_for(pipeline_dir):
    from diffusers import AutoencoderKL

    asked = []

    def hand(device, wanted, damaged):
        asked.append(wanted)
        return arenas.filled(pipeline_dir, wanted, device)

    vae = AutoencoderKL.from_pretrained(pipeline_dir / "vae", torch_dtype=torch.float32)
    options = {"vae": vae, "safety_checker": None}
    pipe = reading.over_arenas(pipeline_dir, CPU, options, hand)
    assert [set(names) for names in asked] == [{"unet", "text_encoder"}]
    assert pipe.vae is vae
    assert pipe.safety_checker is None


@pytest.mark.parametrize("option", ["device_map", "quantization_config"])
def test_options_that_place_or_change_weights_are_refused(pipeline_dir, option):
    with pytest.raises(UsageError, match=option):
        reading.over_arenas(pipeline_dir, CPU, {option: "balanced"}, arenas.hand(pipeline_dir))


def test_attached_pipeline_saves_copies_and_casts_like_any(pipeline_dir, tmp_path):
    from diffusers import StableDiffusionPipeline

    pipe = reading.over_arenas(pipeline_dir, CPU, {}, arenas.hand(pipeline_dir))
    drawn = families.draw(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert (families.draw(again) == drawn).all()
    twin = copy.deepcopy(pipe.unet)
    assert twin.conv_in.weight.data_ptr() != pipe.unet.conv_in.weight.data_ptr()
    assert twin.to(torch.float16).conv_in.weight.dtype == torch.float16
    assert pipe.unet.conv_in.weight.dtype == torch.float32


def test_parameters_lie_in_the_arena_and_buffers_do_not(held, pipeline_dir):
    made = attach.components(pipeline_dir, held)
    assert all(mapping.is_shared(p) for part in made.values() for p in part.parameters())
    buffers = [buffer for part in made.values() for buffer in part.buffers()]
    assert buffers
    assert not any(mapping.is_shared(buffer) for buffer in buffers)


def test_one_changed_weight_is_no_change_of_another_to_autograd(pipeline_dir):
    unet = reading.over_arenas(pipeline_dir, CPU, {}, arenas.hand(pipeline_dir)).unet
    first, second = unet.conv_in.weight, unet.conv_out.weight
    loss = (first * first).sum()
    with torch.no_grad():
        second.add_(1)
    loss.backward()
    assert first.grad is not None
