"""Values survive the way there and back, and what is malformed is refused before it costs."""

import fcntl
import math
import os

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zhcache.errors import UsageError
from zhcache.protocol.frames import close_all
from zhcache.resident.blob import SEALS
from zhcache.resident.decode import Decoder
from zhcache.resident.encode import Encoder


def travel(value):
    import msgspec

    encoder = Encoder()
    words = msgspec.json.decode(msgspec.json.encode(encoder.encode(value, "it")))
    fds = encoder.finish()
    decoder = Decoder(fds)
    close_all(fds)
    return decoder.decode(words)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_plain_values_travel_unchanged(value):
    there = travel(value)
    assert there == value
    assert type(there) is type(value)


def test_not_a_number_travels():
    assert math.isnan(travel(float("nan")))
    assert travel([float("inf"), -float("inf")]) == [float("inf"), -float("inf")]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "P"]
)
def test_image_travels_in_mode(mode):
    base = Image.effect_noise((13, 7), 90)
    image = (
        base.convert("RGB").convert(mode)
        if mode not in ("I;16",)
        else Image.new(mode, (13, 7), 700)
    )
    there = travel({"image": [image]})["image"][0]
    assert (there.mode, there.size) == (image.mode, image.size)
    assert there.tobytes() == image.tobytes()
    assert there.convert("RGB").tobytes() == image.convert("RGB").tobytes()


def test_palette_keeps_its_transparency():
    image = Image.effect_noise((8, 8), 90).convert("P")
    image.info["transparency"] = 3
    assert travel(image).convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize("dtype", ["bool", "u1", "i2", "<i8", ">i4", "f2", "f4", "f8", "c8"])
def test_array_travels(dtype):
    array = numpy.arange(24).reshape(2, 3, 4).astype(dtype).transpose(2, 0, 1)
    there = travel(array)
    assert numpy.array_equal(there, array)
    assert there.shape == array.shape
    there[0] = 0  # its own: writable, and the sender sees nothing
    assert travel(numpy.zeros((0, 3), "f4")).shape == (0, 3)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool,
              torch.float8_e4m3fn, torch.complex64],
)  # fmt: skip
def test_tensor_travels(dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype).transpose(0, 2)
    there = travel(tensor)
    assert there.dtype is dtype and there.shape == tensor.shape
    assert there.contiguous().view(torch.uint8).equal(tensor.contiguous().view(torch.uint8))
    assert travel(torch.empty(0, 4, dtype=dtype)).shape == (0, 4)
    assert travel(torch.tensor(1).to(dtype)).shape == ()


def test_generator_travels_with_its_state_and_stays_one_object():
    used = torch.Generator().manual_seed(5)
    torch.randn(700, generator=used)
    expected = torch.Generator()
    expected.set_state(used.get_state())
    first, second, again = travel([used, torch.Generator().manual_seed(5), used])
    assert first is again and first is not second
    assert torch.randn(9, generator=first).equal(torch.randn(9, generator=expected))


def test_palette_with_its_own_transparency_keeps_it():
    image = Image.new("RGBA", (4, 4), (9, 8, 7, 128)).quantize(4)
    assert image.palette.mode == "RGBA"
    assert travel(image).convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def test_tensor_whose_bytes_are_read_otherwise_travels_as_what_it_says():
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    assert travel(tensor.conj()).equal(tensor.conj().resolve_conj())
    assert travel(tensor.conj().imag).equal(-tensor.imag)


def test_number_of_more_precision_than_pythons_is_refused():
    with pytest.raises(UsageError, match="longdouble"):
        travel(numpy.longdouble(1))


def test_numpy_and_enum_scalars_travel_as_plain_numbers():
    from enum import Enum, IntEnum

    class Size(IntEnum):
        BIG = 512

    class Output(str, Enum):  # noqa: UP042 - StrEnum's str() is its value, this one's is not
        PIL = "pil"

    assert travel(Output.PIL) == "pil"

    assert travel([numpy.float32(0.5), numpy.int64(3), numpy.bool_(True), Size.BIG]) == [
        0.5,
        3,
        True,
        512,
    ]


def test_scheduler_travels_as_class_and_config():
    from diffusers import EulerDiscreteScheduler

    choice = travel(EulerDiscreteScheduler(beta_start=0.001))
    assert choice.class_name == "EulerDiscreteScheduler"
    assert choice.config["beta_start"] == 0.001


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: 0,
        {1, 2},
        b"bytes",
        "\ud800",
        numpy.array([object()]),
        torch.zeros(3).to_sparse(),
        torch.nn.Linear(1, 1),
        Image.new("La", (3, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_sent_is_refused_by_name(value):
    with pytest.raises(UsageError, match="latents"):
        Encoder().encode([value], "latents")


def test_list_within_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(UsageError, match="nested"):
        Encoder().encode(value, "prompt")


TENSOR = {
    "$": "tensor",
    "dtype": "float32",
    "shape": [3],
    "device": "cpu",
    "offset": 0,
    "bytes": 12,
}
IMAGE = {"$": "image", "mode": "RGB", "size": [2, 2], "offset": 0, "bytes": 12}


@pytest.mark.parametrize(
    "hostile",
    [
        IMAGE | {"bytes": 13},
        IMAGE | {"size": [2**40, 2**40], "bytes": 3 * 2**80},
        IMAGE | {"size": [-2, -2]},
        IMAGE | {"size": [10**9, 0], "bytes": 0},
        IMAGE | {"size": "2x2"},
        IMAGE | {"mode": "NONE"},
        IMAGE | {"offset": 64},
        IMAGE | {"offset": 1},
        IMAGE | {"offset": -64},
        IMAGE | {"offset": None},
        {"$": "array", "dtype": "O", "shape": [1], "offset": 0, "bytes": 8},
        {"$": "array", "dtype": "f4", "shape": [2**62, 2**62], "offset": 0, "bytes": 12},
        {"$": "array", "dtype": "nonsense", "shape": [1], "offset": 0, "bytes": 4},
        TENSOR | {"dtype": "load"},
        TENSOR | {"shape": [-1, -3]},
        TENSOR | {"shape": [4]},
        {"$": "generator", "device": "cpu", "offset": 0, "bytes": 12},
        {"$": "generator", "same_as": 4},
        {"$": "dtype", "name": "load"},
        {"$": "int", "value": "zz"},
        {"$": "float", "value": []},
        {"$": "dict", "items": [[[], 1]]},
        {"$": "tuple"},
        {"$": "pickle"},
        {"$": ["list"]},
    ],
    ids=str,
)  # fmt: skip
def test_malformed_value_is_refused(hostile):
    encoder = Encoder()
    encoder.encode(Image.new("RGB", (2, 2)), "it")
    fds = encoder.finish()
    decoder = Decoder(fds)
    close_all(fds)
    with pytest.raises(UsageError):
        decoder.decode([hostile])


def test_bytes_beside_the_words_are_sealed_and_others_are_refused(tmp_path):
    encoder = Encoder()
    encoder.encode(Image.new("RGB", (2, 2)), "it")
    (fd,) = encoder.finish()
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)
    open_ended = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        for bad in ([open_ended], [file], [file, file]):
            with pytest.raises(UsageError):
                Decoder(bad)
    finally:
        close_all([open_ended, file])
