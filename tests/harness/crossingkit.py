"""Split pipelines without a GPU: plans of tiny pipelines, and tensors on devices that are not.

Under torch's ``FakeTensorMode`` tensors lie on ``cpu:1`` and ``cpu:2``, without content; an
operation on both raises, as on GPUs, and so does one on either and ``cpu``. Not ``cuda:N``: a build
for the CPU has no device guard for it, so that the first ``tensor[:, :2]`` fails.
"""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from zhcache.placement import activation
from zhcache.placement.devices import RESERVE, Device, Machine
from zhcache.placement.model import Model
from zhcache.placement.plan import decide
from zhcache.placement.result import placed
from zhcache.placement.sizes import Tensor, part

CALLS = 1000
TOKENS = 7


def modules(pipeline):
    """Returns a pipeline's modules by name."""
    parts = pipeline.components.items()
    return {name: one for name, one in parts if isinstance(one, torch.nn.Module)}


def planned(pipeline, placement, rooms):
    """Returns the planner's answer for GPUs that have room for these parts of the weights."""
    parts = {
        name: part([Tensor(key, "F32", one.nbytes) for key, one in module.named_parameters()])
        for name, module in modules(pipeline).items()
    }
    model = Model(parts, activation.Needs(CALLS, CALLS, CALLS, CALLS))
    calls = model.calls(model.parts, is_tiled=False)
    gpus = [
        Device(f"cpu:{n}", 2**40, int(model.bytes * share) + calls + RESERVE)
        for n, share in enumerate(rooms, 1)
    ]
    names = [gpu.name for gpu in gpus]
    machine = Machine(gpus, names, Device("cpu", 2**40, 2**40), is_named=True)
    size = activation.Size(64, 64)
    return placed(
        decide(model, machine, placement), model, machine, size,
        repo="lab/tiny", commit="0" * 40, variant=None,
    )  # fmt: skip


def supposed_gpus():
    """Returns a context in which modules that are moved to GPUs go there without content."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@torch.no_grad()
def taken_through(family, pipeline):
    """Takes a prompt and latents through all of a pipeline's models, on its execution device."""
    home = pipeline._execution_device
    text = {"sd15": _sd15_text, "sdxl": _sdxl_text, "flux": _flux_text}[family](pipeline, home)
    step = {"sd15": _unet, "sdxl": _unet, "flux": _flux}[family](pipeline, home, text)
    dtype = next(pipeline.vae.parameters()).dtype
    channels = pipeline.vae.config.latent_channels
    image = pipeline.vae.decode(torch.zeros(1, channels, 8, 8, device=home, dtype=dtype)).sample
    again = pipeline.vae.encode(image).latent_dist.sample()
    pair = pipeline.vae.encode(image, return_dict=False)[0].mode()
    return [*text, step, image, again, pair]


def _ids(home):
    return torch.ones(2, TOKENS, dtype=torch.long, device=home)


def _sd15_text(pipeline, home):
    states = pipeline.text_encoder(_ids(home), output_hidden_states=True).hidden_states[-2]
    # What the pipeline itself does after clip_skip.
    inner = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    return [inner.final_layer_norm(states)]


def _sdxl_text(pipeline, home):
    first = pipeline.text_encoder(_ids(home), output_hidden_states=True).hidden_states[-2]
    second = pipeline.text_encoder_2(_ids(home), output_hidden_states=True)
    return [torch.cat([first, second.hidden_states[-2]], dim=-1), second[0]]


def _flux_text(pipeline, home):
    pooled = pipeline.text_encoder(_ids(home)).pooler_output
    return [pipeline.text_encoder_2(_ids(home))[0], pooled]


def _unet(pipeline, home, text):
    latents = torch.zeros(2, 4, 8, 8, device=home, dtype=pipeline.unet.dtype)
    added = {}
    if len(text) > 1:
        added["added_cond_kwargs"] = {
            "text_embeds": text[1],
            "time_ids": torch.zeros(2, 6, device=home, dtype=latents.dtype),
        }
    time = torch.zeros((), device=home)
    return pipeline.unet(latents, time, encoder_hidden_states=text[0], **added).sample + latents


def _flux(pipeline, home, text):
    dtype = pipeline.transformer.dtype
    states = torch.zeros(2, 16, 4, device=home, dtype=dtype)
    return (
        pipeline.transformer(
            hidden_states=states,
            timestep=torch.zeros(2, device=home, dtype=dtype),
            pooled_projections=text[1],
            encoder_hidden_states=text[0],
            txt_ids=torch.zeros(TOKENS, 3, device=home, dtype=dtype),
            img_ids=torch.zeros(16, 3, device=home, dtype=dtype),
            return_dict=False,
        )[0]
        + states
    )
