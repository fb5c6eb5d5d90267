"""A front with a real worker, stock diffusers beside it, and a client that is pointed at it."""

import pytest

from harness.residentfront import Front


@pytest.fixture(scope="module")
def shared_front(tmp_path_factory, pipeline_dir):
    """One worker for a whole file: a call leaves nothing behind, and that is tested."""
    made = Front(tmp_path_factory.mktemp("run"), pipeline_dir)
    yield made
    made.close()


@pytest.fixture
def front(shared_front, monkeypatch):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(shared_front.socket))
    shared_front.refusal = None
    shared_front.cancelled.clear()
    shared_front.requests.clear()
    shared_front.calls.clear()
    return shared_front


@pytest.fixture
def pipe(front):
    from zhcache.resident.open import open_resident

    with open_resident("org/pipe", device="cpu") as opened:
        yield opened


@pytest.fixture(scope="session")
def stock(pipeline_dir):
    import torch
    from diffusers import DiffusionPipeline

    made = DiffusionPipeline.from_pretrained(
        str(pipeline_dir), dtype=torch.float32, local_files_only=True
    )
    made.set_progress_bar_config(disable=True)
    return made
