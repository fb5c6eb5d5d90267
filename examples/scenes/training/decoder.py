"""``python -m scenes.training.decoder --work DIR``: teaches the decoder alone to draw sharper.

The encoder stays as it is and with it the latents, so that a UNet that is trained on them, or that
trains at the same time, needs nothing new.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

from scenes.training.autoencoder import encoded
from scenes.training.drawings import Drawings, drawings, pixels

STEPS: Final = 1400
BATCH: Final = 16
RATE: Final = 1e-3
NOISE: Final = 0.05
"""Added to latents, in units of their std: those that a UNet makes are not exact either."""
INK: Final = 8.0
"""Added weight of pixels at and beside a shape: small ones cover a fiftieth of the picture."""


def refine(
    vae: Any, data: Drawings, device: torch.device, *, steps: int = STEPS, seed: int = 0
) -> None:
    """Trains the decoder on the encoder's means, with its error weighted towards the shapes."""
    latents = encoded(vae, data.images, device)
    spread = float(latents.std())
    learnt = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    vae.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    random = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    for step in range(steps):
        chosen = torch.randint(len(latents), (BATCH,), generator=random)
        noise = torch.randn(latents[chosen].shape, generator=random) * NOISE * spread
        real = pixels(data.images[chosen]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            made = vae.decode((latents[chosen] + noise).to(device)).sample
        apart = (made.float() - real).abs()
        weight = 1 + INK * _at_shapes(real)
        error = (weight * (apart + apart**2)).mean()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            seconds = time.monotonic() - began
            print(f"decoder {step:>5}/{steps} {error.item():.4f} {seconds:.0f} s", file=sys.stderr)
    vae.eval()


def _at_shapes(real: torch.Tensor) -> torch.Tensor:
    """1 where a picture differs from its corner, or a neighbour does: (n, 1, side, side)."""
    inked = ((real - real[..., :1, :1]).abs().amax(1, keepdim=True) > 0.1).float()
    return functional.max_pool2d(inked, 5, 1, 2)


def main() -> None:
    """Refines the autoencoder that a training keeps in its work folder."""
    from diffusers import AutoencoderKL

    from scenes.training.__main__ import DRAWINGS, SEED

    parser = argparse.ArgumentParser(prog="python -m scenes.training.decoder", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="that of the training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    vae: Any = AutoencoderKL.from_pretrained(options.work / "vae")
    device = torch.device(options.device)
    refine(vae.to(device), drawings(DRAWINGS, SEED), device, steps=options.steps)
    vae.cpu().to(memory_format=torch.contiguous_format).save_pretrained(options.work / "vae")


if __name__ == "__main__":
    main()
