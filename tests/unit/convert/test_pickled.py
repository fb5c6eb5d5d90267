"""What a worker may say that was given a pickle, and the index of what several became."""

import json

import pytest

from zhcache.errors import IntegrityError
from zhcache.protocol.conversion import (
    Begin,
    Chunk,
    End,
    Finished,
    Same,
    Small,
    TensorError,
    Unpickle,
    Worked,
)
from zhcache.protocol.frames import FrameError
from zhcached.convert.account import Account
from zhcached.convert.pickled import renamed

BIN, MADE = "unet/diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"
INDEX = "unet/diffusion_pytorch_model.bin.index.json"
SHARD = "diffusion_pytorch_model-0000{}-of-00002.{}"


def told(name="w"):
    return TensorError(
        name=name, dtype_in="F32", dtype_out="F32", max_abs=0.0, relative=0.0,
        nonfinite_in=0, overflow=0, bytes=4,
    )  # fmt: skip


def heard(*events):
    account = Account(Unpickle(blob="/blobs/ab", size=100, path=BIN, output=MADE))
    for event in events:
        account.take(event)
    return account


def test_one_file_comes_and_nothing_else():
    whole = [Begin(path=MADE, size=9), Chunk(size=9), End(path=MADE, tensors=[told()])]
    account = heard(*whole, Worked(bytes_done=100), Finished(tools={"torch": "2"}))
    assert account.finished is not None
    assert account.bytes_done == 100
    assert account.same == set()


@pytest.mark.parametrize(
    "event",
    [
        # The pickle itself must not become a file of the snapshot.
        Same(path=BIN),
        Same(path=MADE),
        Small(path="config.json", content="{}"),
        Small(path=MADE, content="{}"),
        Begin(path=BIN, size=9),
        Begin(path="../" + MADE, size=9),
        Finished(),
    ],
    ids=str,
)
def test_anything_else_ends_it(event):
    with pytest.raises(FrameError):
        heard(event)


def index(weight_map, **more):
    return json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map, **more}).encode()


def test_index_names_what_the_shards_became():
    weight_map = {"a": SHARD.format(1, "bin"), "b": SHARD.format(2, "bin")}
    made = json.loads(renamed(INDEX, index(weight_map), {}))
    assert made["weight_map"] == {
        name: s.replace("bin", "safetensors") for name, s in weight_map.items()
    }
    assert made["metadata"] == {"total_size": 8}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": ' + b"[" * 100_000,
        index({"a": "../" + SHARD.format(1, "bin")}),
        index({"a": "config.json"}),
    ],
    ids=range(6),
)
def test_index_that_is_none_is_refused(content):
    with pytest.raises(IntegrityError, match="index"):
        renamed(INDEX, content, {})


def test_index_that_names_what_a_shard_has_not_is_refused():
    shard = SHARD.format(1, "safetensors")
    content = index({"a": SHARD.format(1, "bin"), "b": SHARD.format(1, "bin")})
    renamed(INDEX, content, {f"unet/{shard}": {"a", "b", "more"}})
    renamed(INDEX, content, {f"vae/{shard}": {"a"}})
    with pytest.raises(IntegrityError, match="'b' is not in"):
        renamed(INDEX, content, {f"unet/{shard}": {"a"}})
