"""The autoencoder: 64 by 64 pixels to 8 by 8 latents of four channels."""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import sys
import time
from typing import Any, Final

import torch

from scenes.training.drawings import Drawings, pixels

STEPS: Final = 2400
BATCH: Final = 16
RATE: Final = 2e-3
KL: Final = 1e-4
"""Weight of the divergence: latents need only be of one order and without holes."""


def build() -> Any:
    """Returns an untrained autoencoder."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=64,
        # Four levels make the factor of 8 between latent and pixel that Stable Diffusion has.
        block_out_channels=(16, 32, 64, 64),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        mid_block_add_attention=False,
    )


def train(vae: Any, data: Drawings, device: torch.device, steps: int = STEPS) -> None:
    """Teaches it to give drawings back; then sets ``scaling_factor`` so that latents have unit std.

    Absolute and squared error and a little divergence (Rombach et al., 2022, without the
    adversary: flat colours have no texture that it would be needed for).
    """
    vae.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    began = time.monotonic()
    for step in range(steps):
        chosen = torch.randint(len(data.images), (BATCH,))
        real = pixels(data.images[chosen]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            told = vae.encode(real).latent_dist
            made = vae.decode(told.sample()).sample
        made, mean, spread = made.float(), told.mean.float(), told.logvar.float()
        divergence = 0.5 * (mean**2 + spread.exp() - 1 - spread).mean()
        error = (made - real).abs().mean() + 2 * (made - real).pow(2).mean()
        optimizer.zero_grad()
        (error + KL * divergence).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            seconds = time.monotonic() - began
            print(f"vae {step:>5}/{steps} {error.item():.4f} {seconds:.0f} s", file=sys.stderr)
    vae.eval()
    sample = encoded(vae, data.images[:2000], device)
    vae.register_to_config(scaling_factor=round(1 / float(sample.std()), 4))


@torch.no_grad()
def encoded(vae: Any, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns the latents' means, not scaled: float32, (n, 4, 8, 8).

    Means, not samples: what the decoder was trained with as noise is a few hundredths of them.
    """
    means: list[torch.Tensor] = []
    for start in range(0, len(images), 128):
        with torch.autocast(device.type, torch.bfloat16):
            told = vae.encode(pixels(images[start : start + 128]).to(device)).latent_dist
        means.append(told.mean.float().cpu())
    return torch.cat(means)
