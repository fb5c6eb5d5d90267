"""The text encoder, and what it is taught before the UNet: to tell what a caption says."""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from scenes.training.drawings import captions, classes, ids
from scenes.world import VOCABULARY, Scene

WIDTH: Final = 128
STEPS: Final = 250
BATCH: Final = 192
RATE: Final = 1e-3


def build(tokenizer: Any) -> Any:
    """Returns an untrained CLIP text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def teach(encoder: Any, tokenizer: Any, scenes: Sequence[Scene], device: torch.device) -> float:
    """Teaches it to tell all attributes from a caption's states; returns the last accuracy.

    The heads that it needs for that are thrown away. A UNet that starts on states which mean
    something learns several times faster than one that starts on random ones.
    """
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, len(v)) for name, v in _values()})
    encoder.to(device).train()
    heads.to(device)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    rng, right = np.random.default_rng(1), 0.0
    for step in range(STEPS):
        chosen = [scenes[int(n)] for n in rng.integers(len(scenes), size=BATCH)]
        wanted = {name: one.to(device) for name, one in classes(chosen).items()}
        states = encoder(ids(tokenizer, captions(chosen, rng)).to(device)).last_hidden_state
        # The last position has seen all: the closing marks repeat what the first of them knows.
        told = {name: heads[name](states[:, -1]) for name in wanted}
        loss = sum(
            (functional.cross_entropy(told[name], wanted[name]) for name in wanted),
            start=torch.zeros((), device=device),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = _accuracy(told, wanted)
        if step % 100 == 0:
            print(f"text {step:>5}/{STEPS} {loss.item():.4f} {right:.3f}", file=sys.stderr)
    return right


def _values() -> list[tuple[str, tuple[str | int, ...]]]:
    return list(VOCABULARY.items())


def _accuracy(told: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    shares = [(told[name].argmax(-1) == wanted[name]).float().mean() for name in wanted]
    return float(torch.stack(shares).mean())
