"""The UNet and, with it, the text encoder: noise out of latents, by a caption."""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from scenes.training.drawings import captions, ids
from scenes.training.language import WIDTH
from scenes.world import Scene

BATCH: Final = 128
RATE: Final = 1e-3
TEXT_RATE: Final = 2e-4
WARM_UP: Final = 200
EMPTY: Final = 0.1
"""Share of captions that are left out, so that guidance has something to lead away from."""
GAMMA: Final = 5.0
DECAY: Final = 0.998


def build() -> Any:
    """Returns an untrained UNet."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 112),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )


def scheduler() -> Any:
    """Returns the scheduler that it is trained and run with.

    The last step is pure noise (Lin et al., 2023): backgrounds are flat, and a model that always
    sees some of the picture's mean never learns to choose their colour.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )


@dataclass
class Learned:
    """UNet and text encoder in training, their averages, and how far they are."""

    unet: Any
    text: Any
    step: int = 0

    def __post_init__(self) -> None:
        """Makes the averages."""
        self.average = copy.deepcopy(torch.nn.ModuleList([self.unet, self.text])).eval()
        self.average.requires_grad_(False)

    def follow(self) -> None:
        """Moves the averages on (exponential moving average)."""
        decay = min(DECAY, (1 + self.step) / (10 + self.step))
        now = torch.nn.ModuleList([self.unet, self.text])
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), now.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)


def train(
    learned: Learned,
    tokenizer: Any,
    latents: torch.Tensor,
    scenes: list[Scene],
    device: torch.device,
    *,
    steps: int,
    state: dict[str, Any] | None,
    on_pause: Callable[[dict[str, Any]], None],
    pause_s: float = 120.0,
) -> None:
    """Trains from ``learned.step`` on until ``steps``.

    Args:
        learned: What learns.
        tokenizer: Of the captions.
        latents: Scaled: (n, 4, 8, 8).
        scenes: What each of them shows.
        device: Where.
        steps: In all.
        state: The optimizer's, of a run that was interrupted.
        on_pause: Given the optimizer's state now and then, and at the end.
        pause_s: Seconds between two such moments.
    """
    groups = [
        {"params": list(learned.unet.parameters()), "lr": RATE, "peak": RATE},
        {"params": list(learned.text.parameters()), "lr": TEXT_RATE, "peak": TEXT_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    if state:
        optimizer.load_state_dict(state)
    noising = scheduler()
    signal = noising.alphas_cumprod.to(device)
    learned.unet.to(device, memory_format=torch.channels_last).train()
    learned.text.to(device).train()
    if device.type == "cpu":
        _plain_attention(learned)
    rng = np.random.default_rng(1000 + learned.step)
    paused = began = time.monotonic()
    losses: list[float] = []
    while learned.step < steps:
        _set_rates(optimizer, learned.step, steps)
        chosen = torch.from_numpy(rng.integers(len(latents), size=BATCH))
        clean = latents[chosen].to(device)
        said = captions([scenes[n] for n in chosen.tolist()], rng, EMPTY)
        noise = torch.randn_like(clean)
        at = torch.randint(len(signal), (BATCH,), device=device)
        noisy = noising.add_noise(clean, noise, at)
        wanted = noising.get_velocity(clean, noise, at)
        with torch.autocast(device.type, torch.bfloat16):
            states = learned.text(ids(tokenizer, said).to(device)).last_hidden_state
            told = learned.unet(noisy, at, states).sample
        error = (told.float() - wanted).pow(2).mean((1, 2, 3))
        # Min-SNR weighting for velocities (Hang et al., 2023).
        ratio = signal[at] / (1 - signal[at]).clamp(min=1e-5)
        loss = (error * ratio.clamp(max=GAMMA) / (ratio + 1)).mean() + 0.2 * error.mean()
        optimizer.zero_grad()
        loss.backward()
        for group in groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        learned.step += 1
        learned.follow()
        losses.append(error.mean().item())
        if learned.step % 100 == 0:
            seconds = time.monotonic() - began
            mean = sum(losses) / len(losses)
            print(f"unet {learned.step:>5}/{steps} {mean:.4f} {seconds:.0f} s", file=sys.stderr)
            losses.clear()
        if time.monotonic() - paused > pause_s or learned.step == steps:
            on_pause(optimizer.state_dict())
            paused = time.monotonic()


def _plain_attention(learned: Learned) -> None:
    """Has attention computed in the open: the fused one's backward takes half of a step on CPUs."""
    from diffusers.models.attention_processor import AttnProcessor

    learned.unet.set_attn_processor(AttnProcessor())
    learned.text.set_attn_implementation("eager")


def _set_rates(optimizer: Any, step: int, steps: int) -> None:
    """Warm-up, then a cosine down to a fiftieth."""
    done = max(step - WARM_UP, 0) / max(steps - WARM_UP, 1)
    shape = min((step + 1) / WARM_UP, 1.0) * (0.51 + 0.49 * float(np.cos(np.pi * done)))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * shape
