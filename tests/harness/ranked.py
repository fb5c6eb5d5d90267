"""``python -m harness.ranked FOLDER CASE...``: pictures of one process, and of two that split them.

Every case is drawn by one process and by two ranks that were forked for it, on gloo; prints one
JSON object for each case. Nothing is imported twice: all are forks of a process with one thread.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zhcached.workers import template


def main() -> None:
    scratch = Path(sys.argv[1])
    template.prepare(scratch)
    template.fill_up()
    for case in sys.argv[2:]:
        family, _, kind = case.partition(":")
        alone = ranks(
            1, scratch, lambda rank, folder, f=family, k=kind: draw(f, k, 1, rank, folder)
        )
        two = ranks(2, scratch, lambda rank, folder, f=family, k=kind: draw(f, k, 2, rank, folder))
        print(json.dumps({"case": case, **compared(alone, two)}), flush=True)


def ranks(count: int, scratch: Path, work: Callable[[int, Path], Any]) -> list[Any]:
    """Returns what each of ``count`` forks returned, or the error that it ended with."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    pids = [_fork(rank, folder, work) for rank in range(count)]
    for pid in pids:
        os.waitpid(pid, 0)
    return [json.loads((folder / f"told-{rank}").read_text()) for rank in range(count)]


def _fork(rank: int, folder: Path, work: Callable[[int, Path], Any]) -> int:
    if pid := os.fork():
        return pid
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    try:
        told = work(rank, folder)
    except BaseException as error:
        told = {"error": f"{type(error).__name__}: {error}", "at": traceback.format_exc()}
    (folder / f"told-{rank}").write_text(json.dumps(told))
    os._exit(0)


def compared(alone: list[Any], two: list[Any]) -> dict[str, Any]:
    """Returns by how much the pictures differ at most, and what the ranks told."""
    if errors := [one["error"] for one in [*alone, *two] if "error" in one]:
        return {"errors": errors, "at": [one.get("at") for one in two]}
    pairs = zip(alone[0]["picture"], two[0]["picture"], strict=True)
    return {
        "difference": max(abs(one - other) for one, other in pairs),
        "ranks_agree": two[0]["picture"] == two[1]["picture"],
        "spread": max(alone[0]["picture"]) - min(alone[0]["picture"]),
        "way": two[0]["way"],
        "splits": two[0]["splits"],
    }


def draw(family: str, kind: str, count: int, rank: int, folder: Path) -> dict[str, Any]:
    """Returns one family's latents, as a flat list, and how they were split."""
    import torch
    from diffusers import DiffusionPipeline

    from harness import families
    from zhcached.workers.parallel.splitting import Splitting, join

    torch.set_num_threads(1)
    pipeline: Any = DiffusionPipeline.from_pretrained(
        families.folder(family), dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {
        "prompt": "a red house",
        "num_inference_steps": 8,
        "height": 64,
        "width": 64,
        "generator": torch.Generator("cpu").manual_seed(7),
        "output_type": "latent",
    }
    pipeline = CASES[kind](pipeline, arguments)
    way, guidance = "", []
    if count > 1:
        join(folder, rank, count, torch.device("cpu"))
        splitting = Splitting(pipeline, torch.device("cpu"))
        way, guidance = splitting.way.name, splitting.guidance
    made = pipeline(**arguments).images
    return {
        "picture": made.flatten().tolist(),
        "way": way,
        "splits": sum(each.splits for each in guidance),
    }


# --- what differs from the plain call -------------------------------------------------------------


def _plain(pipeline: Any, _: dict[str, Any]) -> Any:
    return pipeline


def _unguided(pipeline: Any, arguments: dict[str, Any]) -> Any:
    arguments["guidance_scale"] = 1.0
    return pipeline


def _several(pipeline: Any, arguments: dict[str, Any]) -> Any:
    arguments["num_images_per_prompt"] = 3
    return pipeline


def _odd_text(pipeline: Any, arguments: dict[str, Any]) -> Any:
    arguments["max_sequence_length"] = 15
    return pipeline


def _negative(pipeline: Any, arguments: dict[str, Any]) -> Any:
    arguments |= {"negative_prompt": "rain", "true_cfg_scale": 2.0, "num_inference_steps": 2}
    return pipeline


def _fixed_size(pipeline: Any, arguments: dict[str, Any]) -> Any:
    arguments["use_resolution_binning"] = False
    return pipeline


def _from_image(pipeline: Any, arguments: dict[str, Any]) -> Any:
    from diffusers import StableDiffusionImg2ImgPipeline
    from PIL import Image

    for name in ("height", "width"):
        del arguments[name]
    arguments |= {"image": Image.new("RGB", (64, 64), (200, 40, 40)), "strength": 0.7}
    return _quiet(StableDiffusionImg2ImgPipeline(**pipeline.components))


def _inpaint(pipeline: Any, arguments: dict[str, Any]) -> Any:
    from diffusers import StableDiffusionInpaintPipeline
    from PIL import Image

    arguments |= {
        "image": Image.new("RGB", (64, 64), (200, 40, 40)),
        "mask_image": Image.linear_gradient("L").resize((64, 64)),
    }
    return _quiet(StableDiffusionInpaintPipeline(**pipeline.components))


def _controlled(pipeline: Any, arguments: dict[str, Any]) -> Any:
    import torch
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
    from PIL import Image

    torch.manual_seed(3)
    net = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    with torch.no_grad():
        # Its last layers begin as zeros, which would change nothing.
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    arguments["image"] = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    return _quiet(StableDiffusionControlNetPipeline(**pipeline.components, controlnet=net.eval()))


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


CASES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "": _plain,
    "unguided": _unguided,
    "several": _several,
    "odd-text": _odd_text,
    "negative": _negative,
    "fixed-size": _fixed_size,
    "from-image": _from_image,
    "inpaint": _inpaint,
    "controlled": _controlled,
}

if __name__ == "__main__":
    main()
