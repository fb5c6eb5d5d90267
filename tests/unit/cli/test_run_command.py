import io
import os
import pty
import signal
import subprocess
import sys

import pytest
from PIL import Image

from simulators.daemon import describe
from zhcache.errors import Busy, NoSpace

REPO = "lab/tiny"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pipeline"
    made.mkdir()
    (made / "config.json").write_text("{}")
    return made


@pytest.fixture
def worker(daemon, folder):
    daemon.hold(REPO, folder)
    return daemon.worker


def opened(path):
    with Image.open(path) as image:
        image.load()
        return image


def test_run_saves_an_image_and_prints_its_path(zhcache, worker, elsewhere):
    ran = zhcache("run", REPO, "a red house", "--seed", "7")
    assert (ran.code, ran.out) == (0, "tiny-7.png\n")
    assert opened(elsewhere / "tiny-7.png").getpixel((0, 0)) == (7, 0, 0)


def test_image_says_what_made_it(zhcache, worker, elsewhere):
    zhcache("run", REPO, "一幅中国山水画", "--seed", "7", "--steps", "3", "--chinese", "none")
    said = opened(elsewhere / "tiny-7.png").info
    assert said["prompt"] == "一幅中国山水画"
    assert (said["seed"], said["repo"], said["num_inference_steps"]) == ("7", REPO, "3")
    assert len(said["commit"]) == 40
    assert said["srgb"] == 0


def test_run_passes_on_what_was_asked(zhcache, worker):
    zhcache(
        "run", REPO, "x", "--seed", "1", "--steps", "3", "--size", "16x24", "--guidance", "2.5",
        "--negative", "ugly", "--scheduler", "EulerDiscreteScheduler", "--device", "cuda:1",
        "--variant", "fp16",
    )  # fmt: skip
    (call,), (request,) = worker.calls, worker.requests
    assert call.arguments == {
        "prompt": "x", "negative_prompt": "ugly", "num_inference_steps": 3, "guidance_scale": 2.5,
        "width": 16, "height": 24,
    }  # fmt: skip
    assert (call.seed, call.scheduler) == (1, "EulerDiscreteScheduler")
    assert (request.device, request.variant) == ("cuda:1", "fp16")


def test_number_counts_seeds_up_for_each_prompt(zhcache, worker):
    shown = zhcache("run", REPO, "a", "b", "--number", "2", "--seed", "5", "--json").json
    assert [(i["prompt"], i["seed"]) for i in shown["images"]] == [
        ("a", 5), ("a", 6), ("b", 5), ("b", 6),
    ]  # fmt: skip
    assert [i["path"] for i in shown["images"]] == [
        "tiny-5.png", "tiny-6.png", "tiny-5-2.png", "tiny-6-2.png",
    ]  # fmt: skip
    assert (shown["schema"], shown["repo"], shown["device"]) == (1, REPO, "cpu")


def test_placement_is_asked_for_and_what_cannot_be_meant_is_refused_as_in_python(zhcache, worker):
    for placement in ("split", "offload"):
        ran = zhcache("run", REPO, "x", "--device", "cuda:0", "--placement", placement)
        assert "knows nothing of several devices" in ran.err
    for count, placement in ((2, "auto"), (1, "replicate")):
        given = [word for n in range(count) for word in ("--device", f"cuda:{n}")]
        zhcache("run", REPO, "x", *given, "--placement", placement)
    asked = [(one.placement, one.devices) for one in worker.requests]
    assert asked == [
        ("split", ["cuda:0"]),
        ("offload", ["cuda:0"]),
        ("auto", ["cuda:0", "cuda:1"]),
        ("replicate", []),
    ]
    for given, words in (
        (["--placement", "parallel"], "no other to share an image with"),
        (["--device", "cpu", "--device", "cpu", "--placement", "single"], "all would be on one"),
        (["--placement", "everywhere"], "everywhere"),
    ):
        ran = zhcache("run", REPO, "x", *given)
        assert ran.code == 2
        assert words in ran.err


def test_several_devices_make_the_images_together_and_in_order(zhcache, worker):
    shown = zhcache(
        "run", REPO, "a", "b", "c", "--seed", "5", "--device", "cpu", "--device", "cpu", "--json"
    ).json
    assert worker.requests[0].devices == ["cpu", "cpu"]
    assert [(i["prompt"], i["seed"]) for i in shown["images"]] == [("a", 5), ("b", 5), ("c", 5)]
    assert sorted(call.arguments["prompt"] for call in worker.calls) == ["a", "b", "c"]
    assert shown["devices"] == ["cpu", "cpu"]


def test_seed_is_random_and_told_when_none_is_given(zhcache, worker):
    seeds = {zhcache("run", REPO, "a", "--json").json["images"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert seeds == {call.seed for call in worker.calls}


def test_nothing_is_overwritten_in_a_folder(zhcache, worker, elsewhere):
    (elsewhere / "tiny-7.png").write_bytes(b"mine")
    assert zhcache("run", REPO, "a", "--seed", "7").out == "tiny-7-2.png\n"
    assert (elsewhere / "tiny-7.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("target", "path"),
    [("out", "out/tiny-7.png"), ("a/b/", "a/b/tiny-7.png"), ("picture.PNG", "picture.PNG"),
     ("deep/er/one.png", "deep/er/one.png")],
)  # fmt: skip
def test_output_names_a_folder_or_a_file(zhcache, worker, elsewhere, target, path):
    assert zhcache("run", REPO, "a", "--seed", "7", "--output", target).out == f"{path}\n"
    assert opened(elsewhere / path).format == "PNG"


@pytest.mark.parametrize(
    "options",
    [
        ["--output", "one.png", "--number", "2"],
        ["--output", "one.jpg"],
        ["--output", "-", "--number", "2"],
        ["--output", "-", "--json"],
        ["--size", "512"],
        ["--size", "0x5"],
        ["--size", "5x"],
        ["--size", "99999x5"],
        ["--steps", "0"],
        ["--number", "0"],
        ["--seed", "x"],
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(zhcache, worker, options):
    assert zhcache("run", REPO, "a", *options).code == 2
    assert worker.requests == []


def piped(*args, **options):
    command = [sys.executable, "-m", "zhcache", "run", REPO, "a", "--output", "-", *args]
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=60, check=False, **options)


def test_output_to_stdout_is_the_image_and_nothing_else(worker, elsewhere):
    ran = piped("--seed", "7", stdout=subprocess.PIPE)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert opened(io.BytesIO(ran.stdout)).getpixel((0, 0)) == (7, 0, 0)
    assert list(elsewhere.iterdir()) == []


def test_output_to_a_terminal_is_refused_and_says_what_to_do(worker):
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs) as terminal:
        ran = piped(stdout=terminal)
    assert (ran.returncode, worker.requests) == (2, [])
    assert b"--output tiny.png" in ran.stderr


def test_stdout_that_cannot_be_written_is_told(worker):
    with open("/dev/full", "wb") as full:
        ran = piped(stdout=full)
    assert (ran.returncode, b"stdout cannot be written" in ran.stderr) == (6, True)
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as nobody:
        assert piped(stdout=nobody).stderr == b""


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_image_that_the_safety_checker_made_black_is_told(zhcache, worker, quiet):
    worker.nsfw = True
    ran = zhcache("run", REPO, "a", "--seed", "7", *quiet)
    assert (ran.code, ran.out) == (0, "tiny-7.png\n")
    assert "safety checker made tiny-7.png black" in ran.err
    assert zhcache("run", REPO, "a", "--json").json["images"][0]["nsfw"] is True
    worker.nsfw = False
    ran = zhcache("run", REPO, "a", "--json")
    assert (ran.json["images"][0]["nsfw"], ran.err) == (False, "")


def test_place_that_cannot_be_written_is_told(zhcache, worker, elsewhere):
    (elsewhere / "file").write_text("")
    ran = zhcache("run", REPO, "a", "--output", "file/one.png")
    assert (ran.code, "cannot be written" in ran.err) == (2, True)


def test_prompts_come_from_stdin(zhcache, worker, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\n 二 \n"))
    zhcache("run", REPO, "zero", "-", "--seed", "1", "--chinese", "none")
    assert [call.arguments["prompt"] for call in worker.calls] == ["zero", "one", "二"]


def test_no_prompt_at_all_is_a_usage_error(zhcache, worker, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert zhcache("run", REPO, "-").code == 2
    assert zhcache("run", REPO).code == 2


def test_prompt_that_is_no_text_is_a_usage_error(zhcache, worker):
    ran = zhcache("run", REPO, "a\udcff", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "usage")


def test_argument_that_the_pipeline_lacks_is_named(zhcache, worker, monkeypatch):
    monkeypatch.setattr("simulators.resident.PARAMETERS", ["prompt", "num_inference_steps"])
    ran = zhcache("run", REPO, "a", "--size", "8x8")
    assert (ran.code, worker.calls) == (2, [])
    assert "no argument width, height" in ran.err
    assert "it takes prompt, num_inference_steps" in ran.err


def test_what_is_not_held_is_fetched_first(zhcache, daemon, folder):
    daemon.incoming[REPO] = describe(REPO, folder)
    assert zhcache("run", REPO, "a", "--seed", "1").code == 0
    assert [request.only_pipeline for request in daemon.submitted] == [True]
    assert daemon.worker.requests[-1].revision == daemon.snapshots[REPO].commit


def test_what_no_source_has_is_not_found(zhcache, daemon):
    ran = zhcache("run", REPO, "a", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (4, "not_found")


def test_no_daemon_is_unreachable(zhcache, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(tmp_path / "nobody.sock"))
    assert zhcache("run", REPO, "a").code == 5


def test_first_image_that_fails_is_the_outcome(zhcache, worker):
    worker.errors = [NoSpace("the device is full")]
    ran = zhcache("run", REPO, "a", "b", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (6, "no_space")
    assert len(worker.calls) == 1


def test_later_image_that_fails_leaves_the_earlier_ones(zhcache, worker, elsewhere):
    worker.errors = [None, Busy("too many")]
    ran = zhcache("run", REPO, "a", "b", "c", "--seed", "1", "--json")
    assert ran.code == 3
    assert '"busy"' in ran.out.splitlines()[0]
    assert [image["prompt"] for image in ran.json["images"]] == ["a"]
    assert (elsewhere / "tiny-1.png").exists()


def test_pipeline_that_makes_no_images_is_told_so(zhcache, worker):
    worker.field_name = "audios"
    ran = zhcache("run", REPO, "a")
    assert (ran.code, "makes no images" in ran.err) == (2, True)


def test_ctrl_c_cancels_the_call(started, worker, elsewhere):
    worker.go_on.clear()
    process = started("run", REPO, "a")
    assert worker.called.wait(20)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert worker.was_cancelled.wait(20)
    assert list(elsewhere.iterdir()) == []


def test_steps_are_shown_on_a_terminal_alone(zhcache, worker, monkeypatch):
    assert zhcache("run", REPO, "a").err == ""
    assert worker.calls[-1].wants_steps is False
    monkeypatch.setattr("zhcache.cli.steps._is_terminal", lambda: True)
    ran = zhcache("run", REPO, "a", "b", "--steps", "2")
    assert worker.calls[-1].wants_steps is True
    assert "image 2 of 2, step 2/2" in ran.err
    assert ran.err.endswith("\r\x1b[K")
    assert zhcache("run", REPO, "a", "-q").err == ""
