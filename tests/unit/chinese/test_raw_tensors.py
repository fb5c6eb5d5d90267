"""Tensors that pass through a process without torch come out as they went in."""

import os

import pytest
import torch

from zhcache.errors import UsageError
from zhcache.resident.decode import Decoder
from zhcache.resident.encode import Encoder
from zhcache.resident.values import RawTensor


def sent(value, **how):
    encoder = Encoder()
    encoded = encoder.encode(value, "value")
    fds = encoder.finish()
    try:
        return Decoder(fds, **how).decode(encoded)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensor_passes_through_as_bytes(dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype)
    raw = sent({"embeds": [tensor]}, raw=True)["embeds"][0]
    assert isinstance(raw, RawTensor)
    assert (raw.shape, raw.dtype) == ((2, 3, 4), str(dtype).removeprefix("torch."))
    assert torch.equal(sent(raw), tensor)
    assert torch.equal(sent(raw.reshape(6, 4)), tensor.reshape(6, 4))


def test_empty_tensor_passes_through():
    assert sent(sent(torch.zeros(0, 4), raw=True)).shape == (0, 4)


def test_reshape_to_another_number_of_elements_is_refused():
    with pytest.raises(ValueError, match="cannot become"):
        sent(torch.zeros(2, 3), raw=True).reshape(7)


def test_shape_that_lies_about_its_bytes_is_refused():
    encoder = Encoder()
    encoded = encoder.encode(torch.zeros(2, 3), "value")
    fds = encoder.finish()
    with pytest.raises(UsageError, match="malformed"):
        Decoder(fds, raw=True).decode({**encoded, "shape": [3, 3]})
    os.close(fds[0])
