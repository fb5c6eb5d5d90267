"""``zhcache plan``: on what the daemon says, and on devices that are not there."""

import pytest

from harness.placementkit import GIB, PUBLISHED, weights
from zhcache.protocol import placement
from zhcache.protocol.messages import Resident


@pytest.fixture
def models(daemon):
    """Published pipelines, held by the daemon."""
    for name in PUBLISHED:
        daemon.weights[f"lab/{name}"] = weights(f"lab/{name}", name)
    return daemon


def gpus(*free, links="pcie"):
    infos = [
        placement.DeviceInfo(
            name=f"cuda:{n}", uuid=f"GPU-{n:08x}", model="H100", total=80 * GIB, free=each * GIB
        )
        for n, each in enumerate(free)
    ]
    pairs = [(a.uuid, b.uuid) for a in infos for b in infos if a.name < b.name]
    joined = [placement.LinkInfo(one=a, other=b, kind=links) for a, b in pairs]
    return placement.DeviceList(
        devices=infos, links=joined, host_total=512 * GIB, host_free=400 * GIB
    )


def test_json_says_all_that_was_promised(models, zhcache):
    found = zhcache("plan", "lab/flux", "--devices", "24GiB,24GiB", "--json").json
    assert (found["schema"], found["repo"], found["commit"]) == (1, "lab/flux", "0" * 40)
    assert (found["variant"], found["placement"], found["how"]) == (None, "split", "apart")
    assert found["components"]["transformer"]["device"] == "gpu0"
    assert found["components"]["text_encoder_2"]["device"] == "gpu1"
    assert found["components"]["transformer"]["bytes"] == 23_803_000_000
    assert found["activation_bytes"] > GIB
    for device in found["devices"]:
        assert 0 < device["bytes"] <= device["free"] == device["total"] == 24 * GIB
    assert found["reason"].startswith("no device has room for all of it")
    refused = {(one["placement"], one["how"]): one["reason"] for one in found["rejected"]}
    assert refused["single", "one"] == "33.72 GiB are needed on gpu0, 24.00 GiB are free"
    assert "only if it is asked for" in refused["parallel", None]


def test_text_says_where_each_part_goes_and_why(models, zhcache):
    out = zhcache("plan", "lab/sd15", "--devices", "24GiB", "--size", "512x768").out
    assert "lab/sd15: single, for 512x768 and 1 at once" in out
    assert "all of it fits on gpu0, where nothing has to cross devices" in out
    assert "unet" in out
    assert "Other ways:" in out
    chinese = zhcache("--lang", "zh", "plan", "lab/sd15", "--devices", "24GiB").out
    assert "gpu0 放得下整个管线" in chinese
    assert "其他方式：" in chinese


def test_without_devices_the_roomiest_gpu_that_is_here_is_taken(models, zhcache):
    models.machine = gpus(20, 60)
    found = zhcache("plan", "lab/flux", "--json").json
    assert (found["placement"], found["workers"]) == ("single", ["cuda:1"])
    assert [one["uuid"] for one in found["devices"]] == ["GPU-00000000", "GPU-00000001"]
    assert zhcache("plan", "lab/flux", "-q").out == "single\n"
    models.machine = gpus()
    assert zhcache("plan", "lab/sd15", "--json").json["workers"] == ["cpu"]


def test_links_decide_what_can_be_split(models, zhcache):
    models.machine = gpus(24, 24)
    assert zhcache("plan", "lab/flux", "--json").json["how"] == "apart"
    models.machine = gpus(24, 24, links="none")
    assert zhcache("plan", "lab/flux", "--json").json["how"] == "streamed"


def test_what_the_daemon_keeps_for_nobody_is_let_go(models, zhcache):
    models.machine = gpus(20)
    (gpu,) = models.machine.devices
    gpu.idle = 30 * GIB
    found = zhcache("plan", "lab/flux", "--json").json
    assert (found["placement"], found["devices"][0]["free"]) == ("single", 50 * GIB)
    gpu.most = 24 * GIB
    ran = zhcache("plan", "lab/flux", "--placement", "single")
    assert ran.code == 6
    assert "zhcached keeps 24.00 GiB there at most" in ran.err
    assert "[residency] vram" in ran.err


def test_what_this_user_has_warm_already_costs_nothing_more(models, zhcache):
    import os

    models.machine = gpus(20, 10)
    warm = Resident(
        repo="lab/flux",
        commit="0" * 40,
        variant=None,
        device="GPU-00000001",
        bytes=31 * GIB,
        leases=1,
        uid=os.getuid(),
        expires=None,
    )
    models.resident = [warm]
    assert zhcache("plan", "lab/flux", "--json").json["workers"] == ["cuda:1"]
    warm.uid += 1
    assert zhcache("plan", "lab/flux", "--json").json["placement"] == "offload"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["lab/none"], 4, "not in the store"),
        (
            ["lab/zimage", "--devices", "80GiB,80GiB", "--placement", "parallel"],
            2,
            "no plan for it",
        ),
        (["lab/flux", "--devices", "24GiB", "--placement", "single"], 6, "33.72 GiB are needed"),
        (["lab/flux", "--devices", "cuda:3"], 2, "there is no device cuda:3"),
        (["lab/flux", "--devices", "24GiB,cuda:0"], 2, "cannot be meant"),
        (["lab/flux", "--devices", "24GiB@ethernet"], 2, "cannot be meant"),
        (["lab/flux", "--devices", ""], 2, "cannot be meant"),
        (["lab/flux", "--devices", ",".join(["8GiB"] * 65)], 2, "more than 64 devices"),
        (["lab/flux", "--size", "0x512"], 2, "size"),
        (["lab/flux", "--batch", "0"], 2, "batch"),
        (["lab/flux", "--seen", "3GiB"], 2, "1024x1024=3GiB"),
        (["lab/flux", "--seen", "1x1=much"], 2, "1024x1024=3GiB"),
        (["lab/flux", "--placement", "balanced"], 2, "placement"),
    ],
)
def test_what_cannot_be_planned_is_told_with_its_code(models, zhcache, options, code, words):
    ran = zhcache("plan", *options)
    assert ran.code == code
    assert words in ran.err


def test_what_calls_took_is_reckoned_with(models, zhcache):
    asked = ("plan", "lab/flux", "--devices", "80GiB", "--json")
    before = zhcache(*asked).json["activation_bytes"]
    taken = 3 * GIB
    after = zhcache(*asked, "--seen", "1024x1024=3GiB", "--seen", "512x512=1MiB").json
    # A fifth is kept for what the next call takes more.
    assert before < taken < after["activation_bytes"] <= taken * 1.21
    assert zhcache(*asked, "--seen", "512x512=2MiB").json["activation_bytes"] < before


def test_what_workers_saw_on_gpus_says_nothing_of_the_cpu(models, zhcache):
    models.weights["lab/sd15"].seen = [
        placement.SeenCall(width=512, height=512, step=GIB, decode=2 * GIB, calls=3)
    ]
    found = zhcache("plan", "lab/sd15", "--devices", "24GiB", "--json").json
    assert "seen at 512x512 (calls: 3)" in found["reason"]
    assert found["activation_bytes"] == int(2 * GIB * 1.2)
    assert "512x512" not in zhcache("plan", "lab/sd15", "--devices", "cpu", "--json").json["reason"]


def test_host_memory_can_be_supposed_too(models, zhcache):
    models.machine = gpus()
    models.machine.host_free = 16 * GIB
    asked = ("plan", "lab/flux", "--devices", "24GiB")
    ran = zhcache(*asked)
    assert (ran.code, "--host-memory 128GiB" in ran.err) == (6, True)
    assert "weights stay in host memory" in zhcache(*asked, "--host-memory", "128GiB").out
    found = zhcache("plan", "lab/flux", "--devices", "28GiB").out
    assert "host memory is taken to be this machine's" in found
    assert zhcache(*asked, "--host-memory", "much").code == 2


def test_python_asks_the_same(models):
    import zhcache

    found = zhcache.plan("lab/flux", devices=["24GiB", "24GiB"], size=(1024, 1024), batch=2)
    assert found.placement == "split"
    assert str(found) == found.reason
    assert zhcache.plan("lab/sd15", devices="8GiB").workers == ["gpu0"]
    wrongs = [{"size": (0, 1)}, {"size": ("a", 1)}, {"batch": True}, {"batch": 0}]
    for wrong in (*wrongs, {"seen": {(1, 2): 0.5}}, {"seen": {(1,): 5}}):
        with pytest.raises(zhcache.UsageError, match="cannot be meant"):
            zhcache.plan("lab/sd15", **wrong)
