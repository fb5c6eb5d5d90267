"""A pipeline's weights under the names of latent diffusion, in one file, as people share them.

The inverse of what diffusers does when it reads such a file; no torch.

Source: ``scripts/convert_diffusers_to_original_{stable_diffusion,sdxl}.py`` of diffusers'
repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]

SD1 = {"text_encoder": ("cond_stage_model.transformer.", "clip")}
SD2 = {"text_encoder": ("cond_stage_model.model.", "open_clip")}
SDXL = {
    "text_encoder": ("conditioner.embedders.0.transformer.", "clip"),
    "text_encoder_2": ("conditioner.embedders.1.model.", "open_clip"),
}

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def checkpoint(
    folder: Path,
    text: Mapping[str, tuple[str, str]],
    load: Callable[[Path], Tensors] = load_file,
) -> Tensors:
    """Returns the tensors of the pipeline in ``folder``, as one file has them.

    Args:
        folder: In diffusers' layout.
        text: Of each text encoder, what its keys begin with and how they are laid out.
        load: Returns the tensors of a file.
    """
    made = _unet(folder / "unet", load) | _vae(folder / "vae", load)
    for component, (prefix, way) in text.items():
        tensors = published(load(folder / component / "model.safetensors"))
        for name, tensor in (_open_clip if way == "open_clip" else _clip)(tensors):
            made[prefix + name] = tensor
    return made


def published(tensors: Tensors) -> Tensors:
    """Returns a text encoder's tensors as hubs have them; newer transformers save shorter names."""
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{k}" if k.startswith(bare) else k: v for k, v in tensors.items()}


def write(target: Path, tensors: Tensors) -> Path:
    """Writes a checkpoint's file, with what others leave in theirs; returns it."""
    schedule = np.linspace(0.0, 1.0, 10, dtype=np.float32)
    averaged = {f"model_ema.diffusion_modelx{n}": schedule for n in range(3)}
    beside = {"betas": schedule, "sqrt_alphas_cumprod": schedule, **averaged}
    save_file({**beside, **tensors}, target, {"format": "pt"})
    return target


def _unet(folder: Path, load: Callable[[Path], Tensors]) -> Tensors:
    config = json.loads((folder / "config.json").read_text())
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    names = dict(_UNET)
    for i in range(levels):
        for j in range(layers):
            names[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{(layers + 1) * i + j + 1}.0"
            names[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{(layers + 1) * i + j + 1}.1"
        names[f"down_blocks.{i}.downsamplers.0.conv"] = (
            f"input_blocks.{(layers + 1) * (i + 1)}.0.op"
        )
        for j in range(layers + 1):
            names[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{(layers + 1) * i + j}.0"
            names[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{(layers + 1) * i + j}.1"
        attends = 2 if "CrossAttn" in config["up_block_types"][i] else 1
        last = (layers + 1) * i + layers
        names[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{last}.{attends}.conv"
    names |= {f"mid_block.resnets.{j}": f"middle_block.{2 * j}" for j in range(2)}
    names["mid_block.attentions.0"] = "middle_block.1"
    made: Tensors = {}
    for key, tensor in load(folder / "diffusion_pytorch_model.safetensors").items():
        name = _renamed(key, names)
        if ".resnets." in key:
            name = _renamed(name, _RESNET, anywhere=True)
        made[f"model.diffusion_model.{name}"] = tensor
    return made


def _vae(folder: Path, load: Callable[[Path], Tensors]) -> Tensors:
    config = json.loads((folder / "config.json").read_text())
    levels = len(config["block_out_channels"])
    names = {f"mid_block.resnets.{j}": f"mid.block_{j + 1}" for j in range(2)}
    names |= {"mid_block.attentions.0": "mid.attn_1", "conv_norm_out": "norm_out"}
    for i in range(levels):
        names[f"down_blocks.{i}.resnets"] = f"down.{i}.block"
        names[f"down_blocks.{i}.downsamplers.0"] = f"down.{i}.downsample"
        names[f"up_blocks.{i}.resnets"] = f"up.{levels - 1 - i}.block"
        names[f"up_blocks.{i}.upsamplers.0"] = f"up.{levels - 1 - i}.upsample"
    made: Tensors = {}
    for key, tensor in load(folder / "diffusion_pytorch_model.safetensors").items():
        name = _renamed(key, names, anywhere=True).replace("conv_shortcut", "nin_shortcut")
        if ".attentions." in key:
            name = _renamed(name, _VAE_ATTENTION, anywhere=True)
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        made[f"first_stage_model.{name}"] = tensor
    return made


def _clip(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    yield from tensors.items()
    yield "text_model.embeddings.position_ids", np.arange(77, dtype=np.int64)[None]


def _open_clip(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    yield "positional_embedding", tensors["text_model.embeddings.position_embedding.weight"]
    yield "token_embedding.weight", tensors["text_model.embeddings.token_embedding.weight"]
    hidden = tensors["text_model.final_layer_norm.weight"].shape[0]
    projection = tensors.get("text_projection.weight")
    turned = np.eye(hidden, dtype=np.float32) if projection is None else projection.T
    yield "text_projection", np.ascontiguousarray(turned)
    yield "logit_scale", np.array(4.6, dtype=np.float32)
    for key, tensor in tensors.items():
        if match := re.match(r"text_model\.final_layer_norm\.(.*)", key):
            yield f"ln_final.{match[1]}", tensor
        if not (match := re.match(r"text_model\.encoder\.layers\.(\d+)\.(.*)", key)):
            continue
        block = f"transformer.resblocks.{match[1]}"
        if part := re.fullmatch(r"self_attn\.q_proj\.(weight|bias)", match[2]):
            three = [
                tensors[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")
            ]
            yield f"{block}.attn.in_proj_{part[1]}", np.concatenate(three)
        elif not match[2].startswith(("self_attn.k_proj", "self_attn.v_proj")):
            yield f"{block}.{_renamed(match[2], _OPEN_CLIP)}", tensor


def _renamed(name: str, names: Mapping[str, str], *, anywhere: bool = False) -> str:
    for old, new in names.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
        if anywhere and f".{old}." in name:
            return name.replace(f".{old}.", f".{new}.")
    return name
