"""``python -m scenes.training --out DIR``: trains the scenes model; goes on where it stopped."""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch

from scenes.captions import vocabulary
from scenes.training import autoencoder, decoder, denoiser, language
from scenes.training.drawings import drawings
from scenes.training.folder import write
from scenes.training.vocabulary import tokenizer

SEED: Final = 20_261_123
DRAWINGS: Final = 24_000


def main() -> None:
    """Trains what is not trained yet, and writes the pipeline's folder."""
    parser = argparse.ArgumentParser(prog="python -m scenes.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints are kept here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=6000, help="of the UNet")
    options = parser.parse_args()
    device = torch.device(options.device)
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    say(f"drawing {DRAWINGS:,} scenes")
    data = drawings(DRAWINGS, SEED)
    vae = trained_autoencoder(options.work / "vae", data, device)
    words = tokenizer(vocabulary(), Path(tempfile.mkdtemp(dir=options.work)))
    learned, state = started(options.work / "checkpoint.pt", words, data.scenes, device)

    def pause(optimizer: dict[str, Any]) -> None:
        keep(options.work / "checkpoint.pt", learned, optimizer)
        unet, text = learned.average
        write(options.out, vae=vae, unet=unet, text=text, steps=learned.step, seed=SEED)

    if learned.step >= options.steps:
        assert state is not None
        pause(state)
        return
    say("encoding them")
    latents = autoencoder.encoded(vae, data.images, device) * vae.config.scaling_factor
    denoiser.train(
        learned, words, latents, data.scenes, device,
        steps=options.steps, state=state, on_pause=pause,
    )  # fmt: skip


def trained_autoencoder(folder: Path, data: Any, device: torch.device) -> Any:
    """Returns the autoencoder of an earlier run, or trains it."""
    from diffusers import AutoencoderKL

    if (folder / "config.json").exists():
        return AutoencoderKL.from_pretrained(folder).to(device).eval()
    say("training the autoencoder")
    vae = autoencoder.build()
    autoencoder.train(vae, data, device)
    say("and its decoder alone")
    decoder.refine(vae, data, device)
    vae.save_pretrained(folder)
    return vae


def started(
    path: Path, words: Any, scenes: Any, device: torch.device
) -> tuple[denoiser.Learned, dict[str, Any] | None]:
    """Returns what learns, as an earlier run left it or taught the language first."""
    learned = denoiser.Learned(denoiser.build(), language.build(words))
    if path.exists():
        kept = torch.load(path, weights_only=True)
        learned.unet.load_state_dict(kept["unet"])
        learned.text.load_state_dict(kept["text"])
        learned.average.load_state_dict(kept["average"])
        learned.step = kept["step"]
        learned.average.to(device)
        return learned, kept["optimizer"]
    say("teaching the text encoder what captions say")
    right = language.teach(learned.text, words, scenes, device)
    say(f"it tells {right:.1%} of the attributes")
    learned.__post_init__()
    learned.average.to(device)
    return learned, None


def keep(path: Path, learned: denoiser.Learned, optimizer: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    scratch = path.with_suffix(".new")
    kept = {
        "unet": learned.unet.state_dict(),
        "text": learned.text.state_dict(),
        "average": learned.average.state_dict(),
        "step": learned.step,
        "optimizer": optimizer,
    }
    torch.save(kept, scratch)
    scratch.replace(path)


def say(words: str) -> None:
    """Tells whoever waits."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
