"""Quantizing in a worker as the spawner makes it, and in how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness import quantkit
from harness.converted import convert
from zhcache.protocol.conversion import Part

ROOT = Path(__file__).parents[3]
PATH = os.pathsep.join(str(ROOT / part) for part in ("tests", "", "daemon"))
KIND = "FluxTransformer2DModel"
WEIGHTS = "diffusion_pytorch_model.safetensors"
MiB = 2**20


def run(*arguments):
    # Without what tests set for sdnq: the worker says it itself.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**kept, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("scheme", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_worker_that_is_shut_in_needs_no_compiler(scheme, tmp_path):
    source = quantkit.wide_flux(tmp_path / "base" / "transformer", torch.bfloat16)
    (tmp_path / "scratch").mkdir()
    target = tmp_path / "made"
    folders = (tmp_path / "scratch", source, target)
    told = run("-m", "harness.shutin", *folders, "diffusers", KIND, scheme)
    assert told["status"] == 0, told["words"]
    assert told["hindrance"] == ""
    # What diffusers imports by itself, and no more.
    assert told["imported"] == ["torchao"]
    assert "Failed to load" not in told["words"]
    assert "Traceback" not in told["words"]
    assert told["tools"].keys() >= {"sdnq" if scheme == "int4" else "torchao", "torch"}
    here = convert(source, tmp_path / "here", "diffusers", KIND, Part(scheme=scheme))
    assert (target / WEIGHTS).read_bytes() == (here.folder / WEIGHTS).read_bytes()
    held = {tensor.dtype for tensor in load_file(target / WEIGHTS).values()}
    assert (torch.uint8 if scheme == "int4" else torch.int8) in held


MEASURE = """
import json, sys
import torch
from zhcache.protocol.conversion import Part
from zhcached.workers import quantize
from zhcached.workers.tensors import TensorInfo

def mib(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

torch.set_num_threads(1)
scheme = quantize.scheme(Part(scheme=sys.argv[1]))
module = torch.nn.Module()
module.config = type("Config", (), {})()
with torch.device("meta"):
    module.layer = torch.nn.Linear(3072, 4096, bias=False)
info = TensorInfo("layer.weight", "F32", (4096, 3072), 0, 4096 * 3072 * 4, "x")
(group,) = scheme.plan({"layer.weight": info}, module, {})
weight = torch.randn(4096, 3072)
scheme.restored(group, scheme.convert(group, lambda: weight))
before = mib("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
scheme.restored(group, scheme.convert(group, lambda: weight))
json.dump({"grown": mib("VmHWM") - before}, sys.stdout)
"""


@pytest.mark.parametrize(
    ("scheme", "allowed"),
    [
        pytest.param("int8", 1.5, marks=pytest.mark.slow),
        pytest.param("fp8", 1.5, marks=pytest.mark.slow),
        pytest.param("int4", 3.0, marks=pytest.mark.slow),
    ],
)
def test_memory_is_a_multiple_of_the_largest_tensor(scheme, allowed, tmp_path):
    told = run("-c", MEASURE, scheme)
    assert told["grown"] * MiB < allowed * 4096 * 3072 * 4
