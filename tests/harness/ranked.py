"""``python -m harness.ranked FOLDER CASE...``: pictures of one process, and of two that split them.

Every case is drawn by one process and by two ranks that were forked for it, on gloo, or by as many
as the case says (``qwen-image:uneven-texts:3``); prints one JSON object for each case. Nothing is
imported twice: all are forks of a process with one thread.
"""

from __future__ import annotations

import functools
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
        family, kind, count = (*case.split(":"), "", "")[:3]
        drawing = functools.partial(draw, family, kind, int(count or 2))
        alone = ranks(1, scratch, functools.partial(drawing, 1))
        several = ranks(int(count or 2), scratch, functools.partial(drawing, int(count or 2)))
        print(json.dumps({"case": case, **compared(alone, several)}), flush=True)


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


def compared(alone: list[Any], several: list[Any]) -> dict[str, Any]:
    """Returns by how much the pictures differ at most, and what the ranks told."""
    if errors := [one["error"] for one in [*alone, *several] if "error" in one]:
        return {"errors": errors, "at": [one.get("at") for one in several]}
    pairs = zip(alone[0]["picture"], several[0]["picture"], strict=True)
    return {
        "difference": max(abs(one - other) for one, other in pairs),
        "ranks_agree": all(one["picture"] == several[0]["picture"] for one in several),
        "spread": max(alone[0]["picture"]) - min(alone[0]["picture"]),
        "way": several[0]["way"],
        "splits": several[0]["splits"],
    }


FLASH = "_native_flash"


def flash_on_cpu() -> None:
    """Gives torch what a CPU has no kernel for: attention that tells its sums, as ring needs."""
    import torch

    def attend(
        query: Any,
        key: Any,
        value: Any,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        return_debug_mask: bool = False,
        *,
        scale: float | None = None,
    ) -> tuple[Any, ...]:
        assert not is_causal
        scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
        none = torch.empty(0)
        sums = scores.logsumexp(-1)
        return (scores.softmax(-1) @ value, sums, none, none, 0, 0, none, none, none)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_scaled_dot_product_flash_attention", attend, "CPU")
    # It is registered for as long as this lives.
    KEPT.append(library)


KEPT: list[Any] = []


def draw(family: str, kind: str, parts: int, count: int, rank: int, folder: Path) -> dict[str, Any]:
    """Returns one family's latents, as a flat list, and how they were split.

    Their height divides by ``parts``: gloo, unlike NCCL, gathers parts of one length alone.
    """
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
        "height": 32 * parts,
        "width": 64,
        "generator": torch.Generator("cpu").manual_seed(7),
        "output_type": "latent",
    }
    pipeline = CASES[kind](pipeline, arguments)
    way, guidance = "", []
    if count > 1:
        join(folder, rank, count, torch.device("cpu"))
        attention = FLASH if kind.startswith("ring") else None
        if attention is not None:
            flash_on_cpu()
            pipeline.transformer.set_attention_backend(attention)
        splitting = Splitting(pipeline, torch.device("cpu"), attention)
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


def _odd_size(pipeline: Any, arguments: dict[str, Any]) -> Any:
    """Asks for five by five tokens, of two by two latents each."""
    arguments |= dict.fromkeys(("height", "width"), 5 * 2 * pipeline.vae_scale_factor)
    return pipeline


def _negative(pipeline: Any, arguments: dict[str, Any]) -> Any:
    arguments |= {"negative_prompt": "rain", "true_cfg_scale": 2.0, "num_inference_steps": 2}
    return pipeline


def _uneven_texts(pipeline: Any, arguments: dict[str, Any]) -> Any:
    """Has texts of different lengths, of which the shorter is masked."""
    arguments |= {"prompt": ["a red house", "a red house by the sea, under a dark sky"]}
    return pipeline


def _shifted_texts(pipeline: Any, arguments: dict[str, Any]) -> Any:
    """As uneven ones, and so long that of three parts only the first is longer."""
    arguments |= {"prompt": ["a red house", "a red house by the sea, under a dark sky."]}
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
    from PIL import Image

    from harness import controlled

    arguments["image"] = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    return _quiet(controlled.over(pipeline))


def _ancestral(pipeline: Any, arguments: dict[str, Any]) -> Any:
    """Draws noise at every step; its guidance is scaled back."""
    from diffusers import EulerAncestralDiscreteScheduler

    arguments["guidance_rescale"] = 0.7
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    return pipeline


def _guessing(pipeline: Any, arguments: dict[str, Any]) -> Any:
    """Gives the ControlNet the half with the prompt alone, and zeros for the other."""
    arguments["guess_mode"] = True
    return _controlled(pipeline, arguments)


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


CASES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "": _plain,
    "unguided": _unguided,
    "several": _several,
    "odd-text": _odd_text,
    "odd-size": _odd_size,
    "negative": _negative,
    "uneven-texts": _uneven_texts,
    "shifted-texts": _shifted_texts,
    "ring": _plain,
    "ring-uneven-texts": _uneven_texts,
    "fixed-size": _fixed_size,
    "from-image": _from_image,
    "inpaint": _inpaint,
    "controlled": _controlled,
    "guessing": _guessing,
    "ancestral": _ancestral,
}

if __name__ == "__main__":
    main()
