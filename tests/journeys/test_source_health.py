"""How sources are judged: plane by plane, within their budgets, and in the user's sight."""

import os
import signal

import pytest

from demohub import Hub
from harness.daemon import source

pytestmark = pytest.mark.journey

SMALL_AT_ONCE = 16


def weights(count=1, size=400_000):
    return {f"{n}.safetensors": os.urandom(size) for n in range(count)} | {"config.json": b"{}"}


def shown(daemon):
    return {one["name"]: one for one in daemon.json("sources")["sources"]}


def test_mirror_whose_data_plane_is_dead_is_ranked_last_and_says_so(make_daemon):
    with Hub(name="mirror") as mirror, Hub(name="good") as good, Hub(name="cdn") as cdn:
        files = {"org/one": weights(4), "org/two": weights(4)}
        for name, content in files.items():
            mirror.add(name, content, data_hub=cdn)
            good.add(name, content)
        config = source(mirror, data_origins=f'["{cdn.url}"]') + source(good)
        daemon = make_daemon(config).start()
        cdn.stop()
        daemon.json("prefetch", "org/one")
        first = shown(daemon)
        assert list(first) == ["good", "mirror"]
        said = first["mirror"]["reason"]
        assert said.startswith(f"lists models, but {cdn.address} sends nothing: ")
        assert first["mirror"]["state"] == "down"
        planes = {plane["host"]: plane for plane in first["mirror"]["planes"]}
        assert planes[mirror.address]["state"] == "ok"
        assert planes[cdn.address]["faults"]["refused"] >= 3
        cdn.start()
        result = daemon.json("prefetch", "org/two")
        # It lists as before: both promise the same.
        assert result["trust"] == "quorum"
        assert cdn.sent() == 0


def test_budget_that_one_job_finds_spent_stops_all_until_it_is_renewed(hub, make_daemon):
    for name in ("org/one", "org/two"):
        hub.add(name, weights())
    spent = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.fault("status", plane="meta", status=429, headers=spent, times=1)
    daemon = make_daemon(source(hub)).start()
    first = daemon.popen("prefetch", "org/one", "--json")
    assert hub.wait_for(lambda log: any(r.status == 429 and r.is_settled for r in log))
    second = daemon.popen("prefetch", "org/two", "--json")
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, (out, err, daemon.tail())
    refused, *later = [request.time for request in hub.requests]
    # Whole requests, not answers: what is not sent costs no budget.
    assert min(later) >= refused + 0.95


def test_sources_test_exits_0_if_one_works_10_if_none_and_130_if_interrupted(make_daemon):
    with Hub(name="one") as one, Hub(name="two") as two:
        one.add("org/name", weights(size=2_000_000))
        daemon = make_daemon(source(one) + source(two)).start()
        daemon.json("prefetch", "org/name")
        two.stop()
        tested = daemon.json("sources", "test")
        works = {found["name"]: found["works"] for found in tested["sources"]}
        assert (tested["schema"], works) == (1, {"one": True, "two": False})
        assert tested["sources"][0]["asked"] == "org/name"
        assert daemon.cli("sources", "test", "two", check=False).returncode == 10
        one.fault("delay", plane="meta", seconds=60)
        asked = len(one.requests)
        hanging = daemon.popen("sources", "test", "one")
        assert one.wait_for(lambda log: len(log) > asked)
        hanging.send_signal(signal.SIGINT)
        assert hanging.wait(20) == 130
        assert daemon.stop() == 0


def test_doctor_tells_of_a_source_that_stopped_answering(hub, make_daemon):
    hub.add("org/one", weights())
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/one")

    def judged():
        checks = daemon.json("doctor")["checks"]
        (found,) = [check for check in checks if check["name"] == f"source {hub.name}"]
        return found

    assert judged()["status"] == "ok"
    hub.stop()
    for _ in range(2):
        daemon.json("prefetch", "org/two", code=10)
    assert judged()["status"] == "warn"
    assert "did not answer lately: refused x2" in judged()["detail"]


def test_small_files_go_many_at_once_yet_no_more_than_a_hub_is_to_bear(hub, make_daemon):
    for name in ("org/one", "org/two"):
        hub.add(name, {f"{n}.json": os.urandom(2000) for n in range(SMALL_AT_ONCE + 10)})
    held = hub.fault("stall", at=0)
    daemon = make_daemon(source(hub)).start()
    jobs = [daemon.popen("prefetch", name) for name in ("org/one", "org/two")]

    def under_way(log):
        return [request for request in log if request.plane == "bytes"]

    assert hub.wait_for(lambda log: len(under_way(log)) == SMALL_AT_ONCE)
    # Both jobs wait for a turn now: what is asked for next is asked when one of these has ended.
    assert not hub.wait_for(lambda log: len(under_way(log)) > SMALL_AT_ONCE, timeout=0.5)
    hub.heal(held)
    hub.stop()
    hub.start()
    for job in jobs:
        out, err = job.communicate(timeout=60)
        assert job.returncode == 0, (out, err, daemon.tail())
