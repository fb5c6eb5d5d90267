"""A user's script: loads a pipeline through zhcache and makes one image.

python examples/generate.py runwayml/stable-diffusion-v1-5 "一幅中国山水画" -o landscape.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import zhcache


def main() -> None:
    """Parses, loads, draws."""
    parser = argparse.ArgumentParser(description="One image from a prompt.")
    parser.add_argument("repo")
    parser.add_argument("prompt")
    parser.add_argument("-o", "--output", type=Path, default=Path("image.png"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()

    with zhcache.load_pipeline(options.repo, device=options.device) as pipe:
        image = pipe(
            options.prompt,
            num_inference_steps=options.steps,
            # A generator on the CPU gives the same image on every device.
            generator=torch.Generator("cpu").manual_seed(options.seed),
        ).images[0]
        print(pipe.chinese_report)
    image.save(options.output)
    print(f"{options.output}: {image.width} x {image.height}, {options.prompt}")


if __name__ == "__main__":
    main()
