"""Split pipelines on real GPUs: stock's image, with components where the plan put them."""

from __future__ import annotations

import pytest

REPO = "test/tiny"


@pytest.mark.parametrize("mode", ["attach", "resident"])
def test_gpu_components_apart_and_encoders_in_host_memory_draw_what_one_gpu_draws(
    cuda, served, painter, monkeypatch, mode
):
    import torch

    import zhcache
    from harness.painter import draw

    if torch.cuda.device_count() < 2:
        pytest.skip(f"{torch.cuda.device_count()} GPU is here, and two are needed")
    if torch.cuda.get_device_name(0) != torch.cuda.get_device_name(1):
        pytest.skip("the GPUs are of two kinds, whose last bits differ")
    whole = painter("attach", "cuda:0", REPO, served).ask("draw")
    for name, value in served.environ.items():
        monkeypatch.setenv(name, value)
    for devices, how in ((["cuda:0", "cuda:1"], "apart"), (["cuda:0"], "freed")):
        with zhcache.load_pipeline(REPO, mode=mode, device=devices, placement="split") as pipe:
            assert pipe.placement_report.how == how
            drawn = draw(mode, pipe)
        assert drawn["digest"] == whole["digest"]
        assert drawn["colours"] > 20
