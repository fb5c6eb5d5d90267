"""Programs against the gateway: the hub's command line, downloaders, pipeline libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.daemon import BIN, until
from harness.gatewaysite import Site, ask, contents, site

pytestmark = pytest.mark.journey

WEIGHTS_PATH = "unet/diffusion_pytorch_model.safetensors"
SIZE = 6_000_000
SMALL = {"README.md": "# 模型\n".encode(), "unet/config.json": b"{}"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with site(tmp_path_factory.mktemp("gateway")) as started:
        yield started


def environ(gateway: Site, home: Path) -> dict[str, str]:
    """What a user sets, and nothing of this machine's own user."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    return kept | {
        "HOME": str(home),
        "HF_ENDPOINT": gateway.url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_COLOR": "1",
    }


def run(command: list[str | Path], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def test_hf_command_downloads_a_model(gateway, tmp_path):
    files = SMALL | {WEIGHTS_PATH: os.urandom(SIZE)}
    gateway.hub.add("tools/cli", files)
    folder = tmp_path / "model"
    run([BIN / "hf", "download", "tools/cli", "--local-dir", folder], environ(gateway, tmp_path))
    assert contents(folder) == files
    assert gateway.hub.sent(WEIGHTS_PATH, "tools/cli") == SIZE


def test_curl_that_was_killed_goes_on_where_it_was(gateway, tmp_path):
    weights = os.urandom(SIZE)
    gateway.hub.add("tools/curl", {"w.safetensors": weights})
    fault = gateway.hub.fault("rate", repo="tools/curl", rate=12_000_000)
    target = tmp_path / "w.safetensors"
    url = gateway.file_url("tools/curl", "w.safetensors")
    with subprocess.Popen(["curl", "-sSf", "-o", target, url]) as killed:
        until(lambda: target.exists() and target.stat().st_size > 100_000, "curl has some")
        killed.kill()
    had = target.stat().st_size
    assert had < SIZE
    gateway.hub.heal(fault)
    told = "%{http_code} %{size_download}"
    out = run(["curl", "-sSf", "-C", "-", "-w", told, "-o", target, url])
    assert out == f"206 {SIZE - had}"
    assert target.read_bytes() == weights
    assert gateway.hub.sent(repo="tools/curl") == SIZE
    assert run(["curl", "-sS", "-C", "-", "-w", "%{http_code}", "-o", target, url]) == "416"


@pytest.mark.skipif(shutil.which("aria2c") is None, reason="aria2c is not installed")
def test_aria2c_fetches_several_ranges_at_once(gateway, tmp_path):
    weights = os.urandom(SIZE)
    gateway.hub.add("tools/aria2", {"w.safetensors": weights})
    url = gateway.file_url("tools/aria2", "w.safetensors")
    options = ["-q", "-x4", "-s4", "-k1M", "--no-conf", "-d", tmp_path, "-o", "w"]
    run(["aria2c", *options, url])
    assert (tmp_path / "w").read_bytes() == weights
    assert gateway.hub.sent(repo="tools/aria2") == SIZE


def test_ranges_asked_at_once_cost_the_hub_each_byte_once(gateway):
    weights = os.urandom(SIZE)
    gateway.hub.add("tools/at-once", {"w.safetensors": weights})
    url = gateway.file_url("tools/at-once", "w.safetensors")
    step = SIZE // 4

    def fetch(start: int) -> bytes:
        return ask(url, Range=f"bytes={start}-{start + step - 1}").body

    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(fetch, range(0, SIZE, step)))
    assert b"".join(parts) == weights
    assert gateway.hub.sent(repo="tools/at-once") == SIZE


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_ranges_are_exact(gateway, state):
    name, weights = f"tools/ranges-{state}", os.urandom(SIZE)
    repo = gateway.hub.add(name, {"w.safetensors": weights})
    url = gateway.file_url(name, "w.safetensors")
    if state == "warm":
        assert ask(url).body == weights
    etag = ask(url, "HEAD").headers["etag"]
    for asked, start, end in [
        ("bytes=5000000-5000009", 5_000_000, 5_000_010),
        ("bytes=-7", SIZE - 7, SIZE),
        # By this one clients in Rust learn size and commit.
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
    ]:
        answer = ask(url, Range=asked, If_Range=etag)
        assert (answer.status, answer.body) == (206, weights[start:end])
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
        assert answer.headers["x-repo-commit"] == repo.commit
    assert ask(url, Range=f"bytes={SIZE}-").status == 416
    assert ask(url, Range="bytes=0-9", If_Range='"other"').body == weights


def test_a_server_that_looks_before_it_fetches_finds_what_it_looks_for(gateway):
    # As vLLM and text-generation servers do: HEADs of names that may be there, then the API.
    gateway.hub.add("tools/probe", SMALL | {WEIGHTS_PATH: b"w" * 100})
    before = len(gateway.hub.requests)
    for path, status in [
        ("config.json", 404),
        ("params.json", 404),
        ("unet/config.json", 200),
        (WEIGHTS_PATH, 200),
    ]:
        for _ in range(3):
            assert ask(gateway.file_url("tools/probe", path), "HEAD").status == status
    # However often they look, the hub is asked what it has once.
    assert len(gateway.hub.requests) - before <= 2
    assert gateway.hub.sent(repo="tools/probe") == 0


PIPELINE = """
import sys
import torch
from diffusers import DiffusionPipeline
from transformers import AutoTokenizer, CLIPTextModel
pipe = DiffusionPipeline.from_pretrained("tools/pipe")
image = pipe("a cat", num_inference_steps=1, output_type="np").images[0]
assert image.ndim == 3
AutoTokenizer.from_pretrained("tools/pipe", subfolder="tokenizer")
model = CLIPTextModel.from_pretrained("tools/pipe", subfolder="text_encoder")
assert sum(p.numel() for p in model.parameters()) > 0
assert torch.isfinite(next(model.parameters())).all()
"""


@pytest.mark.slow
def test_diffusers_and_transformers_load_through_the_gateway(gateway, tmp_path, pipeline_dir):
    found = {path.relative_to(pipeline_dir): path for path in pipeline_dir.rglob("*")}
    files = {name.as_posix(): path for name, path in found.items() if path.is_file()}
    gateway.hub.add("tools/pipe", files)
    run([sys.executable, "-c", PIPELINE], environ(gateway, tmp_path))
    sent = gateway.hub.sent(repo="tools/pipe")
    assert 0 < sent <= sum(path.stat().st_size for path in files.values())
