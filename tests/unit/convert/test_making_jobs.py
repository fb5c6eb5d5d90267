"""The making of variants as part of a job: its states, its progress, what fails it and what not."""

from types import SimpleNamespace

import pytest

from harness.storekit import COMMIT
from zhcache.errors import Cancelled, Partial, UsageError, WorkerDied
from zhcache.protocol.messages import PrefetchRequest
from zhcached.config import RecipeConfig
from zhcached.jobs import state
from zhcached.jobs.control import Control
from zhcached.jobs.perform import Performer
from zhcached.jobs.variants import Making, Wanted

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


class Job:
    """One job in its thread, without a queue."""

    def __init__(self, shop, *asked):
        self.shop = shop
        self.states = []
        self.control = Control(lambda step: self.states.append(state.name(step)), None)
        self.request = PrefetchRequest(repo=str(shop.repo), variants=list(asked))
        task = state.Prefetch(self.request)
        self.record = state.Record("job", "key", 7, 1.0, 1.0, task, state.Queued())
        self.making = Making(shop.store, shop.variants, self.record, self.control)

    def run(self):
        wanted = Wanted(self.request, self.shop.variants)
        return self.making.all(self.shop.base, wanted)

    def repair(self):
        prefetcher = SimpleNamespace(variants=self.shop.variants)
        return Performer(self.shop.store, prefetcher, None, None).perform(
            state.Record("job", "repair", 7, 1.0, 1.0, state.Repair(), state.Queued()), self.control
        )


def test_job_without_variants_takes_no_further_step(shop):
    job = Job(shop)
    assert job.run() == {}
    assert job.states == []


def test_job_tells_of_every_variant(shop):
    job = Job(shop, "fp16", "int8")
    made = job.run()
    assert list(made) == ["fp16", "int8"]
    assert made["fp16"].path != made["int8"].path
    assert job.states == ["converting"]
    assert job.control.progress.bytes_done == job.control.progress.bytes_total > 0


def test_job_warns_of_what_a_variant_lacks_each_time_it_is_asked_for(shop):
    for _ in range(2):
        # The stand-in tells of fp16, whatever is asked for.
        job = Job(shop, "int8")
        job.run()
        assert [word[:29] for word in job.making.warnings] == ["nothing of unet became int8 i"]


def test_variant_that_was_asked_for_and_cannot_be_made_fails_the_job(shop, control):
    control.do("die")
    with pytest.raises(WorkerDied):
        Job(shop, "fp16").run()


def test_variant_that_nobody_asked_for_and_cannot_be_made_is_a_warning(shop, control):
    control.do("die")
    shop.renew(auto={str(shop.repo): ("fp16",)})
    job = Job(shop)
    assert job.run() == {}
    (warning,) = job.making.warnings
    assert "fp16" in warning


def test_cancelled_job_is_cancelled_with_a_policy_too(shop):
    shop.renew(auto={str(shop.repo): ("fp16",)})
    job = Job(shop)
    job.control.cancelled.set()
    with pytest.raises(Cancelled):
        job.run()


def damage(shop, name):
    manifest = shop.store.variant(shop.repo, COMMIT, name)
    (file,) = [file for file in manifest.files if file.path == UNET_FILE]
    shop.store.layout.blob(file.sha256).unlink()
    return manifest


def test_repair_makes_damaged_variants_anew(shop):
    shop.make("fp16")
    held = damage(shop, "fp16")
    done = Job(shop).repair()
    assert done.verify.missing == []
    assert shop.store.variant(shop.repo, COMMIT, "fp16") == held
    assert shop.store.broken_variants() == []


def test_repair_lets_a_variant_go_whose_recipe_is_another_now(shop):
    shop.renew(recipes={"mine": RecipeConfig(default="fp16")})
    shop.make("mine")
    held = damage(shop, "mine")
    shop.renew(recipes={"mine": RecipeConfig(default="bf16")})
    Job(shop).repair()
    assert shop.store.variant(shop.repo, COMMIT, "mine").commit != held.commit
    assert shop.store.broken_variants() == []


def test_repair_says_why_a_variant_cannot_be_made_anew(shop):
    shop.renew(recipes={"mine": RecipeConfig(default="fp16")})
    shop.make("mine")
    damage(shop, "mine")
    shop.renew()
    with pytest.raises(Partial, match="lab/pipe mine: there is no recipe") as caught:
        Job(shop).repair()
    assert len(caught.value.verify.missing) == 1


def test_names_are_checked_without_making_anything(shop):
    shop.variants.check(["fp16", "int8"])
    with pytest.raises(UsageError):
        shop.variants.check(["fp16", "int3"])
