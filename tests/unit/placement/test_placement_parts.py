"""What planning is made of: sizes from headers, calls from configurations, devices from words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.placementkit import GIB, PUBLISHED, machine, model
from zhcache.errors import UsageError
from zhcache.placement.activation import known, needs
from zhcache.placement.devices import Device, Machine, chosen
from zhcache.placement.model import phase_of
from zhcache.placement.sizes import Tensor, bytes_of, part

MIB = 2**20


def test_a_part_knows_its_largest_tensor_and_layer():
    found = part(
        [
            Tensor("shared.weight", "BF16", 30),
            Tensor("encoder.block.0.q.weight", "BF16", 10),
            Tensor("encoder.block.0.k.weight", "F32", 15),
            Tensor("encoder.block.1.q.weight", "BF16", 20),
            Tensor("down_blocks.0.resnets.1.conv.weight", "BF16", 4),
            Tensor("down_blocks.0.resnets.0.conv.weight", "BF16", 4),
            Tensor("down_blocks.00.odd", "BF16", 1),
        ]
    )
    assert (found.bytes, found.largest, found.block, found.dtype) == (84, 30, 30, "bfloat16")
    assert part([Tensor("blocks.3.a", "F16", 9), Tensor("blocks.3.b", "F16", 9)]).block == 18
    assert part([]).dtype is None


def test_the_phase_of_components():
    assert {name: phase_of(name) for name in PUBLISHED["flux"][4]} == {
        "text_encoder": "encode",
        "text_encoder_2": "encode",
        "transformer": "denoise",
        "vae": "decode",
    }
    assert phase_of("audio_vae") == phase_of("movq") == "decode"
    assert phase_of("image_encoder") == "encode"
    # What is not known lies there all the time.
    assert phase_of("controlnet") == phase_of("prior") == phase_of("adapter") == "denoise"


def test_calls_grow_with_pixels_and_images():
    small, wide, many = (
        model("sdxl", size=s).needs for s in ((1024, 1024, 1), (2048, 1024, 1), (1024, 1024, 4))
    )
    assert wide.step == 2 * small.step
    assert wide.decode == 2 * small.decode
    assert wide.decode_tiled == small.decode_tiled
    assert many.step == 4 * small.step
    assert many.decode == 4 * small.decode
    # In slices: one image after the other.
    assert many.decode_tiled == small.decode_tiled


def test_an_autoencoder_in_other_words_is_not_taken_for_one_without_stages():
    told = model("qwen").needs
    assert told.step < GIB
    # Its autoencoder is of films: six times as much for a pixel as that of FLUX.1.
    assert told.decode_tiled < GIB < told.decode < 4 * GIB


@given(
    st.dictionaries(
        st.sampled_from(["sample_size", "block_out_channels", "dim", "text_config", "patch_size"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_whatever_a_configuration_says_calls_are_of_this_world(config):
    found = known(config)
    told = needs(found, found, [found], kind="UNet2DConditionModel", width=2)
    # Twenty is the highest power of what is believed, twice for a side.
    assert all(0 <= count < 2**90 for count in (told.step, told.decode, told.decode_tiled))
    assert 0 < told.encode < 2**60


def test_devices_by_name_and_by_size():
    there = machine(None, there=(20, 40))
    assert there.workers == ["cuda:0", "cuda:1"]
    assert not there.is_named
    assert chosen("auto", there) == chosen(None, there) == there
    by_uuid = chosen("GPU-00000001", there)
    assert by_uuid.workers == ["cuda:1"]
    assert chosen("cuda", there).workers == ["cuda:0"]
    twice = chosen("cuda:1, cuda:1", there)
    assert (twice.workers, len(twice.devices)) == (["cuda:1", "cuda:1"], 1)
    supposed = chosen("24GiB,0.5GiB@nvlink", there)
    assert [one.total for one in supposed.devices] == [24 * GIB, 512 * MIB]
    assert supposed.joined(["gpu0", "gpu1"]) == "nvlink"
    assert supposed.host == there.host


@pytest.mark.parametrize("text", ["", ",", "0GiB", "24GiB,,8GiB", "cuda:-1", "cuda:0@nvlink", "a"])
def test_devices_that_cannot_be_meant(text):
    with pytest.raises(UsageError, match="cannot be meant"):
        chosen(text, machine(None, there=(20, 40)))


def test_a_machine_is_as_near_as_its_farthest():
    gpus = [Device(f"cuda:{n}", 1, 1) for n in range(3)]
    links = {
        frozenset(("cuda:0", "cuda:1")): "nvlink",
        frozenset(("cuda:1", "cuda:2")): "system",
    }
    found = Machine(gpus, [], Device("cpu", 1, 1), links)
    assert found.joined(["cuda:0", "cuda:1"]) == "nvlink"
    # What is not known goes over the bus.
    assert found.joined(["cuda:0", "cuda:2"]) == "pcie"
    assert found.joined(["cuda:0", "cuda:1", "cuda:2"]) == "system"


@pytest.mark.parametrize(("text", "count"), [("24GiB", 24 * GIB), ("1.5 gb", 15 * 10**8), ("7", 7)])
def test_sizes(text, count):
    assert bytes_of(text) == count
    assert bytes_of(f"{text}x") is None
