"""What is planned for one image on several devices is what the workers do then."""

import pytest

from harness.placementkit import PIPELINES, PUBLISHED, machine, model
from zhcache.errors import UsageError
from zhcache.placement.parallel import cut_of
from zhcached.workers.parallel.ways import Denoiser, choose

NAMES = {"cfg": "guidance", "ulysses": "ulysses"}


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", PUBLISHED)
def test_plan_and_workers_agree(name, count):
    asked = model(name)
    there = machine(",".join(["80GiB"] * count) + "@nvlink")
    kind = PUBLISHED[name][0]
    pipeline = PIPELINES.get(name, kind)
    denoiser = Denoiser(kind, pipeline, asked.family.has_plan, asked.heads or None)
    try:
        how, workers = cut_of(asked, there)
    except UsageError:
        with pytest.raises(UsageError):
            choose(denoiser, count)
        return
    assert NAMES[choose(denoiser, len(workers)).name] == how
    assert len(workers) == (2 if how == "guidance" else count)
