"""Prompts within the window of a model in the store, counted by its own tokenizer."""

import json

import pytest

from harness.daemon import source
from zhcache.prompts.budget import budget_for

pytestmark = pytest.mark.journey

LONG = "一幅油画，湖边的老人和一条小船，远处是连绵的雪山"


def test_budget_is_that_of_a_model_in_the_store(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    daemon = make_daemon(source(hub)).start()
    lacking = daemon.json("prompt", "optimize", LONG, "--encoder", "org/pipe", code=4)
    assert lacking["error"]["code"] == "not_found"
    daemon.json("prefetch", "org/pipe")
    ran = daemon.cli("prompt", "optimize", LONG, "--encoder", "org/pipe", "--json")
    told = json.loads(ran.stdout)
    assert ran.stderr == ""
    tokens = budget_for(pipeline_dir).tokens
    assert tokens(told["prompt"]) == told["tokens"] <= told["budget"] == 77
    # As many as fit, and no more: this tokenizer takes two for a character.
    assert 0 < len(told["added"]) < len(daemon.json("prompt", "optimize", LONG)["added"])
    # What is leased while it is read is let go after it.
    assert daemon.json("ps")["resident"] == []
