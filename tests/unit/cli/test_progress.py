"""Progress on a terminal and elsewhere; tables with wide characters."""

import io

from zhcache.cli.table import table, width
from zhcache.progress import Bars, Lines, display, size
from zhcache.protocol.messages import FileProgress, Job


def job(state: str = "fetching", done: int = 0, **files: tuple[int, int]) -> Job:
    return Job(
        id="j1",
        kind="prefetch",
        repo="org/name",
        state=state,
        bytes_done=done,
        bytes_total=4096,
        rate=1024.0,
        files=[FileProgress(path=p, size=s, done=d, source="one") for p, (s, d) in files.items()],
    )


def test_lines_are_at_most_one_a_second() -> None:
    out, now = io.StringIO(), [0.0]
    lines = Lines(out, lambda: now[0])
    lines.update(job())
    for step in range(1, 40):
        now[0] = step / 10
        lines.update(job(a=(10, 10 if step > 20 else 1), b=(10, 0), c=(10, 0)))
    shown = out.getvalue().splitlines()
    assert shown[0] == "org/name: fetching"
    assert len(shown) == 4
    assert shown[1] == "a: 10 B from one"


def test_line_of_what_comes_from_nowhere_names_no_source() -> None:
    out, now = io.StringIO(), [0.0]
    lines = Lines(out, lambda: now[0])
    converting = job("converting")
    lines.update(converting)
    now[0] = 2.0
    converting.files = [FileProgress(path="unet", size=10, done=0)]
    lines.update(converting)
    assert out.getvalue().splitlines()[1] == "unet: 10 B"


def test_lines_give_a_total_every_few_seconds() -> None:
    out, now = io.StringIO(), [0.0]
    lines = Lines(out, lambda: now[0])
    for step in range(110):
        now[0] = step / 10
        lines.update(job(done=step))
    totals = [line for line in out.getvalue().splitlines() if " of " in line]
    assert totals == [
        "org/name: 50 B of 4.0 KiB, 1.0 KiB/s",
        "org/name: 100 B of 4.0 KiB, 1.0 KiB/s",
    ]


def test_bars_show_files_on_their_way_and_drop_those_done() -> None:
    out = io.StringIO()
    with Bars(out) as bars:
        bars.update(job(a=(10, 1), b=(10, 10)))
        assert list(bars._rows) == ["a"]
        bars.update(job(a=(10, 10), **{"模型.bin": (10, 2)}))
        assert list(bars._rows) == ["模型.bin"]
    assert len(bars._progress.tasks) == 2


def test_display_is_plain_when_stderr_is_no_terminal() -> None:
    assert isinstance(display(io.StringIO()), Lines)


def test_sizes_are_binary() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1.5 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 GiB",
    ]


def test_table_counts_cells_and_not_characters() -> None:
    lines = list(table(("PATH", "SIZE"), [("模型.bin", "1"), ("a", "22")], right=(1,)))
    assert len({width(line) for line in lines}) == 1


def test_table_shows_no_control_characters() -> None:
    assert "\x1b" not in "".join(table(("PATH",), [("\x1b[2Jx",)]))
