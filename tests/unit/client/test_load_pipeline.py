"""``load_pipeline``: a real pipeline, leased, as published, without network."""

import copy
import json
import pickle  # noqa: TID251 - of one process, to itself
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zhcache
from harness import families
from simulators.daemon import DaemonSimulator, describe
from zhcache.errors import NotFound, UsageError

REPO = "demo/tiny-sd"


@pytest.fixture
def leased(daemon: DaemonSimulator, pipeline_dir: Path) -> DaemonSimulator:
    """The simulator, holding the tiny pipeline."""
    daemon.hold(REPO, pipeline_dir)
    return daemon


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses every connection that is not over a Unix socket."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, f"a connection to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def test_load_gives_a_real_pipeline_that_owns_its_lease(
    leased: DaemonSimulator, pipeline_dir: Path, no_network: None
) -> None:
    import diffusers

    with zhcache.load_pipeline(REPO, device="cpu", safety_checker=None) as pipe:
        assert isinstance(pipe, diffusers.DiffusionPipeline)
        assert [lease.repo for lease in leased.leases.values()] == [REPO]
        ours = _image(pipe)
    assert leased.lease_ended.wait(10)
    assert leased.leases == {}
    stock = diffusers.DiffusionPipeline.from_pretrained(str(pipeline_dir), safety_checker=None)
    assert ours == _image(stock)


def _image(pipe: Any) -> bytes:
    import torch

    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(7)
    made = pipe("a boat", num_inference_steps=2, generator=generator, height=64, width=64)
    return made.images[0].tobytes()


def test_release_ends_the_lease_once_and_leaves_the_pipeline_working(
    leased: DaemonSimulator,
) -> None:
    pipe = zhcache.load_pipeline(REPO, device="cpu")
    zhcache.release(pipe)
    zhcache.release(pipe)
    assert leased.lease_ended.wait(10)
    assert _image(pipe)


def test_pipeline_saves_under_its_own_class_name(leased: DaemonSimulator, tmp_path: Path) -> None:
    with zhcache.load_pipeline(REPO, device="cpu") as pipe:
        pipe.save_pretrained(tmp_path / "saved")
        assert type(pipe).__name__ == "StableDiffusionPipeline"
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"


def test_copies_of_a_pipeline_are_plain_and_hold_no_lease(leased: DaemonSimulator) -> None:
    from diffusers import StableDiffusionPipeline

    with zhcache.load_pipeline(REPO, device="cpu") as pipe:
        twin = copy.copy(pipe)
        assert type(pickle.loads(pickle.dumps(pipe))) is StableDiffusionPipeline
        kin = type(pipe)(**pipe.components)
        assert type(twin) is StableDiffusionPipeline
        assert len(leased.leases) == 1
    with pytest.raises(UsageError, match="no lease"):
        zhcache.release(twin)
    zhcache.release(kin)


def test_load_keeps_the_published_half_precision_mapped(
    daemon: DaemonSimulator, pipeline_dir: Path, tmp_path: Path
) -> None:
    import torch
    from diffusers import DiffusionPipeline

    half = tmp_path / "half"
    DiffusionPipeline.from_pretrained(str(pipeline_dir), dtype=torch.bfloat16).save_pretrained(half)
    daemon.hold(REPO, half)
    with zhcache.load_pipeline(REPO, device="cpu") as pipe:
        found = {name: part.dtype for name, part in pipe.components.items() if _has_weights(part)}
    assert found == {"unet": torch.bfloat16, "vae": torch.bfloat16, "text_encoder": torch.bfloat16}


def _has_weights(part: Any) -> bool:
    return hasattr(part, "parameters")


def test_load_fetches_first_when_the_snapshot_is_absent(
    daemon: DaemonSimulator, pipeline_dir: Path
) -> None:
    daemon.incoming[REPO] = describe(REPO, pipeline_dir, complete=False)
    with zhcache.load_pipeline(REPO, device="cpu"):
        assert len(daemon.leases) == 1
    assert [request.only_pipeline for request in daemon.submitted] == [True]


def test_load_fetches_the_rest_when_only_some_files_are_held(
    daemon: DaemonSimulator, pipeline_dir: Path, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    (part / "model_index.json").write_bytes((pipeline_dir / "model_index.json").read_bytes())
    daemon.hold(REPO, part, complete=False)
    daemon.incoming[REPO] = describe(REPO, pipeline_dir)
    with zhcache.load_pipeline(REPO, device="cpu"):
        pass
    assert len(daemon.submitted) == 1


def test_load_of_an_unknown_repository_is_not_found(daemon: DaemonSimulator) -> None:
    with pytest.raises(NotFound):
        zhcache.load_pipeline("demo/none")
    assert daemon.leases == {}


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "FP 16"},
        {"variant": 16},
        {"mode": "other"},
        {"placement": "everywhere"},
        {"chinese": "translated"},
        {"chinese_keep": "word"},
        {"device": ["cpu", "cpu"], "placement": "single"},
        {"device": ["cpu", "cpu"], "memory": "low"},
        {"placement": "split", "memory": "low"},
        {"placement": "split", "mode": "resident", "memory": "low"},
        {"device": 3},
        {"revision": 3},
        {"timeout": "soon"},
        {"timeout": -1},
        {"timeout": True},
        {"torch_dtype": "float16"},
        {"dtype": None},
        {"cache_dir": "/tmp"},
        {"device": "cpu", "device_map": "balanced"},
    ],
)
def test_load_refuses_what_it_would_otherwise_ignore(
    daemon: DaemonSimulator, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        zhcache.load_pipeline(REPO, **options)
    assert daemon.requests == []


def test_load_sets_the_attention_backend_of_models_that_have_one(daemon: DaemonSimulator) -> None:
    daemon.hold(REPO, families.folder("flux"))
    with zhcache.load_pipeline(REPO, device="cpu", attention="native") as pipe:
        used = {
            processor._attention_backend for processor in pipe.transformer.attn_processors.values()
        }
    assert [backend.value for backend in used] == ["native"]
    with pytest.raises(UsageError, match="attention backend warp"):
        zhcache.load_pipeline(REPO, device="cpu", attention="warp")


def test_load_refuses_an_attention_backend_that_nothing_would_use(leased: DaemonSimulator) -> None:
    with pytest.raises(UsageError, match="do not let an attention backend be chosen"):
        zhcache.load_pipeline(REPO, device="cpu", attention="native")


def test_load_has_repeated_blocks_compiled_when_they_are_first_used(
    leased: DaemonSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, *_, **__: compiled.append(type(self).__name__)
    )
    zhcache.release(zhcache.load_pipeline(REPO, device="cpu", compile=True))
    assert set(compiled) == {"BasicTransformerBlock"}


def test_load_fetches_nothing_for_a_device_that_is_not_there(
    daemon: DaemonSimulator, pipeline_dir: Path
) -> None:
    daemon.incoming[REPO] = describe(REPO, pipeline_dir)
    with pytest.raises(UsageError, match="cuda:777"):
        zhcache.load_pipeline(REPO, device="cuda:777")
    for name in ("mps", "meta", "xla"):
        with pytest.raises(UsageError, match=name):
            zhcache.load_pipeline(REPO, device=name)
    assert daemon.submitted == []


def test_load_refuses_a_device_map_where_weights_come_as_arenas(
    leased: DaemonSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leased, "host", "arenas")
    with pytest.raises(UsageError, match="device_map"):
        zhcache.load_pipeline(REPO, device_map="balanced")
    assert leased.lease_ended.wait(10)


def test_resident_mode_imports_nothing_heavy_and_tries_no_attach(
    daemon: DaemonSimulator,
) -> None:
    script = (
        "import sys, zhcache\n"
        "try: zhcache.load_pipeline('demo/none', mode='resident')\n"
        "except zhcache.ZhcacheError as error: print(type(error).__name__)\n"
        "print(*{'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == [""], done.stdout + done.stderr
    assert not any(path == "/v1/leases" for _, path in daemon.requests)


def test_load_ends_the_lease_when_the_pipeline_cannot_be_read(
    daemon: DaemonSimulator, tmp_path: Path
) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    daemon.hold(REPO, folder)
    with pytest.raises(UsageError, match="not a diffusers pipeline"):
        zhcache.load_pipeline(REPO)
    assert daemon.lease_ended.wait(10)


def test_import_costs_little() -> None:
    """Neither torch nor anything else of weight, and the contract's 100 ms."""
    script = (
        "import time, sys; start = time.perf_counter(); import zhcache;"
        "cost = time.perf_counter() - start;"
        "heavy = {'torch', 'httpx', 'msgspec', 'click', 'rich', 'diffusers'} & set(sys.modules);"
        "print(cost, *heavy)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert runs[0][1:] == []
    assert min(float(run[0]) for run in runs) < 0.1
