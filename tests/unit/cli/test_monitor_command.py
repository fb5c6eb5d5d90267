"""``zhcache monitor``: a command as a child, what is told of it, logs and plots."""

import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from PIL import Image
from rich.console import Console

from harness.allocating import Child
from zhcache import i18n
from zhcache.cli import vitals
from zhcache.monitoring import drawing
from zhcache.monitoring.records import GpuUse, MachineUse, ProcessUse, Sample
from zhcache.protocol.messages import Resident

MIB = 2**20
TALK = "print('from the command', flush=True)"


def run(*args: str, **more):
    return subprocess.run(
        [sys.executable, "-m", "zhcache", "monitor", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", **more},
    )


def samples(count=3):
    """Samples of a machine with a GPU; in the second, nothing is known of the disk."""
    found = []
    for number in range(count):
        use = ProcessUse(
            pid=41,
            command="python train.py [bold]x[/bold]",
            uid=0,
            rss=(number + 1) * 100 * MIB,
            cpu=120.0,
            read=None if number == 1 else 4096.0,
            vram=2**30,
            gpu=60.0,
            model="org/name",
        )
        gpu = GpuUse(uuid="GPU-1", index=0, name="Stand-in", total=2**34, used=2**31, busy=40.0)
        machine = MachineUse(memory=2**30, memory_total=2**33, cpu=12.0, received=9.0, sent=8.0)
        found.append(
            Sample(
                schema=1,
                time=1e9 + number,
                elapsed=float(number),
                machine=machine,
                processes=[use],
                gpus=[gpu],
            )
        )
    return found


def test_a_commands_output_and_exit_code_are_its_own_and_the_rest_is_told_beside():
    ran = run("--", sys.executable, "-c", f"{TALK}; bytearray(300 << 20); raise SystemExit(7)")
    assert (ran.returncode, ran.stdout) == (7, "from the command\n")
    assert "memory of one process" in ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("memory of one")]
    # Even of a command that no sample has seen with it.
    assert float(line.split()[4]) > 300


def test_a_commands_memory_is_told_by_a_monitor_that_something_larger_started():
    ours = [sys.executable, "-m", "zhcache", "monitor", "--"]
    theirs = [sys.executable, "-c", "bytearray(300 << 20)"]
    # What a process was forked from is in what getrusage says of it.
    larger = f"import subprocess; held = bytearray(600 << 20); subprocess.run({ours + theirs!r})"
    ran = subprocess.run(
        [sys.executable, "-c", larger],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    (line,) = [line for line in ran.stderr.splitlines() if line.startswith("memory of one")]
    assert 300 < float(line.split()[4]) < 400


def test_a_command_that_a_signal_ended_is_told_as_shells_tell_it():
    assert run("sh", "-c", "kill -9 $$").returncode == 137


def test_a_command_is_not_taken_for_options_of_ours():
    ran = run("-q", "sh", "-c", 'echo "$@"', "x", "--json", "-q", "--pid")
    assert (ran.stdout, ran.stderr) == ("--json -q --pid\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_the_commands(number):
    code = (
        "import signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(33))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "zhcache", "monitor", "-q", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(timeout=60) == 33


def test_a_command_does_not_inherit_that_signals_are_held_back():
    code = (
        "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []),"
        " signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN)"
    )
    # Python itself ignores SIGPIPE, so a program that is not Python is asked as well.
    assert run("-q", sys.executable, "-c", code).stdout.startswith("set()")
    ignored = run("-q", "grep", "SigIgn", "/proc/self/status").stdout.split()[1]
    assert not int(ignored, 16) & 1 << (signal.SIGPIPE - 1)


def test_a_small_command_is_not_told_with_the_memory_of_what_started_it():
    peak = json.loads(run("--json", "true").stdout.splitlines()[-1])["peak"]
    # It may have ended before anybody looked; then nothing is known of it, rather than nought.
    assert peak.get("rss", 1) in range(1, 15 * MIB)


def test_json_is_a_stream_with_the_summary_last_and_the_command_beside_it():
    ran = run("--json", "--interval", "0.05", "--", sys.executable, "-c", TALK)
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {one["kind"] for one in found[:-1]} == {"sample"}
    assert (found[-1]["kind"], found[-1]["schema"]) == ("summary", 1)
    assert "from the command" in ran.stderr


def test_a_command_goes_on_where_nobody_reads_the_stream(tmp_path):
    mark = tmp_path / "done"
    code = f"import sys, pathlib; sys.stdin.readline(); pathlib.Path({str(mark)!r}).touch()"
    with subprocess.Popen(
        [sys.executable, "-m", "zhcache", "monitor", "--json", "--interval", "0.05", "--",
         sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == ""
    assert mark.exists()


def test_a_program_that_is_not_there_is_told(zhcache):
    ran = zhcache("monitor", "no-such-program")
    assert (ran.code, "no-such-program" in ran.err) == (4, True)
    assert zhcache("monitor", "/etc").code == 8


def test_without_a_terminal_there_is_a_line_for_each_sample(zhcache):
    with Child() as child:
        ran = zhcache("monitor", "--pid", child.pid, "--interval", "0.05", "--duration", "0.3")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert "1 processes" in lines[0]
    assert "samples" in ran.out
    assert "highest sample" in ran.out


def test_it_ends_with_the_process_that_is_watched(zhcache):
    with Child() as child:
        code = ["-c", "import sys, signal, os; os.kill(int(sys.argv[1]), 9)", str(child.pid)]
        subprocess.run([sys.executable, *code], check=True)
        # A killed child that nobody waited for counts as ended.
        ran = zhcache("monitor", "--pid", child.pid, "--interval", "0.05")
    assert ran.code in (0, 2)


def test_ctrl_c_ends_watching_and_tells_the_peaks():
    with Child() as child, subprocess.Popen(
        [sys.executable, "-m", "zhcache", "monitor", "--pid", str(child.pid), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["kind"] == "summary"


def test_processes_of_the_daemon_bear_their_models_names(daemon, tmp_path):
    with Child() as child:
        daemon.resident = [
            Resident(
                repo="org/model",
                variant=None,
                device="cpu",
                bytes=1,
                leases=0,
                uid=0,
                expires=None,
                mode="resident",
                pid=child.pid,
            )
        ]
        with subprocess.Popen(
            [sys.executable, "-m", "zhcache", "monitor", "--pid", str(child.pid), "--json",
             "--interval", "0.05"],
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            for line in process.stdout:
                if json.loads(line)["processes"][0].get("model") == "org/model":
                    break
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def test_on_a_terminal_it_changes_in_place_and_gives_the_cursor_back():
    main, other = pty.openpty()
    with Child() as child, subprocess.Popen(
        [sys.executable, "-m", "zhcache", "monitor", "--pid", str(child.pid), "--interval",
         "0.05", "--duration", "0.5"],
        stdout=other, stderr=other, env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
    ) as process:  # fmt: skip
        os.close(other)
        shown = b""
        try:
            while block := os.read(main, 4096):
                shown += block
        except OSError:
            # How a terminal tells that its other end was closed.
            pass
        assert process.wait(timeout=60) == 0
    os.close(main)
    assert b"Machine:" in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert b"highest sample" in shown


def test_the_view_takes_brackets_for_what_they_are():
    console = Console(file=io.StringIO(), width=200, height=20)
    console.print(vitals.view(samples()[0], console))
    shown = console.file.getvalue()
    assert "[org/name] python train.py [bold]x[/bold]" in shown
    assert "GPU 0 Stand-in: 40 %, 2.0 GiB of 16.0 GiB" in shown
    assert "1.0 GiB" in shown


@pytest.fixture
def log(tmp_path):
    """A log of a command that took a little."""
    path = tmp_path / "run.jsonl"
    assert run("-q", "--log", str(path), "--interval", "0.05", "sleep", "0.3").returncode == 0
    return path


def test_a_log_is_told_again(zhcache, log):
    assert "memory of one process" in zhcache("monitor", "--read", log).out
    found = zhcache("monitor", "--read", log, "--json").json
    assert (found["kind"], found["schema"]) == ("summary", 1)


def test_a_log_is_drawn_in_both_languages(zhcache, log, tmp_path):
    for name in ("a.svg", "a.html", "a.png"):
        assert (
            zhcache("--lang", "zh", "monitor", "--read", log, "--plot", tmp_path / name).code == 0
        )
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    words = "".join(root.itertext())
    assert "内存" in words
    assert "Noto Sans CJK" in root.attrib["font-family"]
    page = (tmp_path / "a.html").read_text("utf-8")
    assert 'lang="zh"' in page
    assert "sleep 0.3" in page
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 2 * 960
        assert len(set(picture.convert("RGB").resize((96, 60)).tobytes())) > 4
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(
        ["a.html", "a.png", "a.svg", "run.jsonl"]
    )


def test_a_plot_has_every_panel_and_gaps_where_nothing_is_known():
    i18n.use("en")
    drawn = drawing.svg(drawing.figure(samples(), "T"), "T <&>")
    root = ElementTree.fromstring(drawn)
    words = [one.text for one in root.iter() if one.tag.endswith("text")]
    for title in ("Memory", "GPU memory", "Disk", "Network of the machine"):
        assert title in words
    assert "watched, at most 120 %" in words
    assert "written" not in " ".join(words)
    # The second sample's disk is a gap: two strokes of that colour instead of one.
    assert root.attrib["aria-label"] == "T <&>"


def test_a_plot_of_one_sample_is_drawn():
    ElementTree.fromstring(drawing.svg(drawing.figure(samples(1), "T"), "T"))


@pytest.mark.parametrize(
    "args",
    [
        ("--plot", "x.pdf"),
        ("--interval", "0"),
        ("--read", "x", "--log", "y"),
        ("--duration", "1", "true"),
        ("--nonsense",),
        ("--pid", "4194305"),
    ],
)
def test_wrong_use_is_told_before_anything_runs(zhcache, args):
    assert zhcache("monitor", *args).code == 2


def test_a_plot_that_could_not_be_written_is_told_before_the_command_runs(tmp_path):
    for plot in (tmp_path / "none" / "a.svg", tmp_path / "folder.svg"):
        (tmp_path / "folder.svg").mkdir(exist_ok=True)
        ran = run("--plot", str(plot), "touch", str(tmp_path / "ran"))
        assert ran.returncode != 0
        assert "a.svg" in ran.stderr or "folder.svg" in ran.stderr
    assert not (tmp_path / "ran").exists()


def test_a_plot_does_not_follow_what_was_laid_beside_it(tmp_path):
    private, plot = tmp_path / "private", tmp_path / "a.svg"
    private.write_text("before")
    (tmp_path / f".a.svg.{os.getpid()}.part").symlink_to(private)
    drawing.save(plot, samples(), list)
    assert private.read_text() == "before"
    ElementTree.parse(plot)


def test_a_command_goes_on_where_its_stream_has_no_room(tmp_path):
    line = (
        f"{shlex.quote(sys.executable)} -m zhcache monitor --json --interval 0.05"
        " sh -c 'sleep 0.3; echo done >&2; exit 7' >/dev/full"
    )
    ran = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert ran.returncode == 7
    assert "done" in ran.stderr
    assert ran.stderr.count("no longer told: No space left") == 1


def test_a_plot_that_cannot_be_written_is_told(zhcache, log, tmp_path):
    ran = zhcache("monitor", "--read", log, "--plot", tmp_path / "none" / "a.svg")
    assert ran.code == 4
