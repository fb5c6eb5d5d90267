"""A user: a process that holds a pipeline and paints when it is told to.

``python -m harness.painter stock|attach|resident DEVICE WHAT``, where WHAT is a folder for stock
and a repository for the others. It reads commands from stdin, a line each, and answers each with
a line of JSON: ``draw``, ``memory``, ``places``, ``write``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROMPT = "ab cd"
STEPS = 2


class Painter:
    """Such a process, from outside. It has its pipeline when the constructor returns."""

    def __init__(self, way: str, device: str, what: str, environ: Mapping[str, str]) -> None:
        tests = str(Path(__file__).resolve().parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness.painter", way, device, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(environ) | {"PYTHONPATH": tests},
        )
        self.loaded = self._answer()

    def ask(self, command: str) -> Any:
        """Sends a command and returns its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError(f"the painter ended with {self.process.wait()}")

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def load(way: str, device: str, what: str) -> Any:
    """Returns the pipeline."""
    import zhcache

    if way == "resident":
        return zhcache.load_pipeline(what, mode="resident", device=device)
    import torch

    if way == "attach":
        return zhcache.load_pipeline(what, device=device)
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from zhcache.pipeline.published import published

    form = published(Path(what))
    pipeline: Any = DiffusionPipeline.from_pretrained(
        what,
        dtype=getattr(torch, form.default),
        variant=form.variant,
        use_safetensors=True,
        local_files_only=True,
    )
    return pipeline if device == "cpu" else pipeline.to(device)


def draw(way: str, pipeline: Any) -> dict[str, Any]:
    """Returns a digest of an image and what tells it from a black one."""
    seed: dict[str, Any] = {"seed": 0}
    if way != "resident":
        import torch

        seed = {"generator": torch.Generator("cpu").manual_seed(0)}
        pipeline.set_progress_bar_config(disable=True)
    began = time.monotonic()
    image = pipeline(PROMPT, num_inference_steps=STEPS, height=64, width=64, **seed).images[0]
    pixels = image.tobytes()
    return {
        "digest": hashlib.sha256(pixels).hexdigest(),
        "colours": len(set(pixels)),
        "seconds": time.monotonic() - began,
    }


def memory(_: str, pipeline: Any) -> dict[str, Any]:
    """Returns the bytes that torch has allocated on the GPU by itself, and those of all weights."""
    import torch

    parameters = [p for m in _modules(pipeline) for p in m.parameters()]
    own = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return {"own": own, "weights": sum({p.data_ptr(): p.nbytes for p in parameters}.values())}


def places(_: str, pipeline: Any) -> dict[str, Any]:
    """Returns what the addresses of the parameters are worst aligned to."""
    pointers = [p.data_ptr() for m in _modules(pipeline) for p in m.parameters() if p.numel()]
    worst = min(pointer & -pointer for pointer in pointers)
    return {"alignment": worst, "parameters": len(pointers)}


def write(_: str, pipeline: Any) -> dict[str, Any]:
    """Writes into a shared weight by a kernel, past every guard; it may not come back."""
    import torch

    parameter = next(next(_modules(pipeline)).parameters())
    try:
        torch.Tensor.add_(parameter.data, 1)
        torch.cuda.synchronize()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"error": ""}


def _modules(pipeline: Any) -> Any:
    import torch

    return (c for c in pipeline.components.values() if isinstance(c, torch.nn.Module))


def main(way: str, device: str, what: str) -> None:
    """Loads, then does what it is told."""
    began = time.monotonic()
    pipeline = load(way, device, what)
    print(json.dumps({"seconds": time.monotonic() - began}), flush=True)
    for line in sys.stdin:
        command = {"draw": draw, "memory": memory, "places": places, "write": write}[line.strip()]
        print(json.dumps(command(way, pipeline)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
