"""What a worker says that a call took: by phase, of what came out, of calls like anybody's."""

import numpy
import pytest
from PIL import Image

from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcache.protocol.placement import SeenCall
from zhcache.resident.encode import Encoder
from zhcached.workers.taking import Meter

IMAGES = [Image.new("RGB", (48, 32))] * 2


def encoded(**fields):
    encoder = Encoder()
    found = {name: encoder.encode(value, name) for name, value in fields.items()}
    frames.close_all(encoder.finish())
    return found


def call(**fields):
    arguments = {"prompt": "x", **fields.pop("arguments", {})}
    return r.Call(id=1, arguments=arguments, **fields)


def seen(*readings, asked=None, fields=None, is_tiled=False):
    """Returns what is said of a call with these highest bytes: at first, of steps, of the rest."""
    left = iter(readings)
    # What was before the call is read as well, and is not the call's.
    meter = Meter(lambda: next(left, 10**9), is_tiled=is_tiled)
    for _ in readings[2:]:
        meter.step()
    return meter.seen(asked or call(), encoded(images=IMAGES) if fields is None else fields)


def test_phases_are_told_apart_by_the_steps():
    told = seen(10**6, 50, 70, 60, 90, is_tiled=True)
    assert told == SeenCall(width=48, height=32, batch=2, step=70, decode=90, is_tiled=True)
    # More than any other step is the encoders'.
    assert seen(0, 80, 70, 60, 90).encode == 80
    # Of one step it cannot be told.
    one = seen(0, 80, 20)
    assert (one.encode, one.step, one.decode) == (80, 80, 20)
    # A pipeline that tells of no steps.
    assert seen(0, 90) is None


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({"images": IMAGES}, (48, 32, 2, 1)),
        ({"images": numpy.zeros((3, 32, 48, 3))}, (48, 32, 3, 1)),
        ({"frames": [[*IMAGES, *IMAGES]] * 3}, (48, 32, 3, 4)),
        ({"frames": numpy.zeros((1, 5, 32, 48, 3))}, (48, 32, 1, 5)),
        ({"images": numpy.zeros((32, 48))}, None),
        ({"images": []}, None),
        ({"image_embeds": numpy.zeros((3, 32, 48, 3))}, None),
    ],
)
def test_sizes_are_of_what_came_out(fields, made):
    told = seen(0, 5, 5, 5, fields=encoded(**fields))
    found = told and (told.width, told.height, told.batch, told.frames)
    assert found == made


def test_tensors_have_their_colours_elsewhere():
    torch = pytest.importorskip("torch", reason="pip install 'zhcache[torch]'")
    images, films = torch.zeros(2, 3, 32, 48), torch.zeros(2, 5, 3, 32, 48)
    assert seen(0, 5, 5, fields=encoded(images=images)).height == 32
    told = seen(0, 5, 5, fields=encoded(frames=films))
    assert (told.width, told.batch, told.frames) == (48, 2, 5)


@pytest.mark.parametrize(
    "asked",
    [
        {"arguments": {"output_type": "latent"}},
        {"arguments": {"guidance_scale": 1.0}},
        {"arguments": {"guidance_scale": "7"}},
        {"arguments": {"latents": None}},
        {"arguments": {"prompt_embeds": []}},
        {"arguments": {"cross_attention_kwargs": {}}},
        {"arguments": {"image": "x"}},
        {"pipeline": "StableDiffusionImg2ImgPipeline"},
        {"conditions": {"texts": []}},
        {"scheduler": {"$": "scheduler"}},
    ],
)
def test_calls_that_are_not_anybodys_say_nothing(asked):
    assert seen(0, 5, 5, asked=call(**asked)) is None


def test_calls_like_anybodys_do():
    plain = {"guidance_scale": 5, "width": 48, "output_type": "pil", "negative_prompt": None}
    assert seen(0, 5, 5, asked=call(arguments=plain, seed=[1, 2], scheduler="DDIMScheduler"))
