"""A Ray cluster that changes while a script uses it: nodes leave and come back, or are too old.

Run in a process of its own, as ``raycluster`` is.
"""

from __future__ import annotations

import faulthandler
import signal
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

from harness.daemon import until
from harness.raycluster import (
    ARGUMENTS,
    REPOS,
    STUCK_S,
    batch,
    begun,
    cluster,
    loopback_alone,
    refused,
    say,
)

DEPTH = 12
CALL_S = 1.5
"""So that what a node has at hand takes longer than its leaving, however fast the machine is."""

STEPS = 50
AFTER = 4


def shrink(first: str, second: str, out: str) -> None:
    """Serve lets a node go in the middle of a batch, and takes it back after."""
    from zhcache import cluster as clustered

    with cluster(first, second) as (started, _):
        served = clustered.serve(REPOS, address=started.address, device="cpu", depth=DEPTH)
        asked: dict[str, Any] = {"address": started.address, **ARGUMENTS}
        asked["num_inference_steps"] = STEPS
        first_ones = clustered.generate(*batch(8), **asked)
        before = made_by(first_ones)
        # The first of each model has its loading in it.
        taken_s = statistics.median(one.seconds for one in first_ones)
        asked["num_inference_steps"] = min(max(int(STEPS * CALL_S / taken_s), 2), 1000)
        seen: list[str] = []

        def on_made(_: int, made: clustered.Made) -> None:
            seen.append(made.node)
            if len(seen) == AFTER:
                _resize(served, 1)
                say(resized=len(seen))

        made = clustered.generate(*batch(26), out=out, on_made=on_made, **asked)
        (left,) = served.nodes()
        gone = [node for node in seen[AFTER:] if node != left.node]
        say(made=len(made), left=left.node, ended=len(gone), last=seen[-1])
        _resize(served, 2)
        until(lambda: len(served.nodes()) == 2, "the node is back")
        asked["num_inference_steps"] = 2
        after = made_by(clustered.generate(*batch(8), **asked))
        say(before=before, after=after)


def made_by(made: list[Any]) -> dict[str, list[str]]:
    """Returns which nodes made the images of each model."""
    return {repo: sorted({one.node for one in made if one.repo == repo}) for repo in REPOS}


def _resize(served: Any, count: int) -> None:
    """Has Serve keep so many replicas, as its own choice by load does; it starts none anew."""
    from ray import serve

    from zhcache.cluster import deploy
    from zhcache.cluster.replica import Replica

    options = deploy.deployment(REPOS, count, count, DEPTH, deploy.QUEUE, deploy.SPILL_S)
    app = serve.deployment(Replica, name="node", **options).bind(["cpu"], deploy.AGE_S)
    serve.run(app, name=served.name, route_prefix=None)


def old(first: str, second: str, out: str) -> None:
    """The first node's daemon is of another version; a script on the second is interrupted."""
    from zhcache import cluster as clustered

    with cluster(first, second) as (started, nodes):
        address = started.address
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            served = clustered.serve(REPOS, address=address, device="cpu", depth=8)
        say(warned=[str(one.message) for one in warned if one.category is UserWarning])
        failures = [one.failure.code for one in served.nodes() if one.failure]
        made = clustered.generate(*batch(20), address=address, **ARGUMENTS)
        say(failures=failures, made=len(made), by=made_by(made))

        script = begun("harness.raychanges", "long", address, out)
        journal = Path(out) / "journal.jsonl"
        until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > AFTER, "some images")
        script.send_signal(signal.SIGINT)
        script.communicate(timeout=60)
        say(ended=script.returncode, lines=journal.read_bytes().count(b"\n"))
        until(lambda: sum(one.waiting for one in served.nodes()) == 0, "nothing is made any more")
        long(address, out)

        started.remove_node(nodes[1], allow_graceful=False)
        # The replica there outlives its node by a moment, in which it would make the image.
        until(lambda: all(one.failure for one in served.nodes()), "the node is lost")
        refused(lambda: clustered.generate(REPOS[0], ["x"], address=address, **ARGUMENTS))


def long(address: str, out: str) -> None:
    """A script that makes many images, and can be interrupted however this was started."""
    from zhcache import cluster as clustered

    made = clustered.generate(*batch(60), out=out, address=address, **ARGUMENTS)
    say(made=len(made))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1] != "long":
        loopback_alone()
    asked = {"shrink": shrink, "old": old, "long": long}[sys.argv[1]]
    asked(*sys.argv[2:])
