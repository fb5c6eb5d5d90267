"""What would rot unseen: the shape of the tree, and documents that must say what the code says."""

from __future__ import annotations

import ast
import functools
import re
import statistics
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from zhcached import config, units
from zhcached.config import measures

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh.md")
REFERENCES = ("docs/reference.md", "docs/reference.zh.md")
FILE_LINES_MAX = 550
FILE_LINES_MEDIAN = 150
FUNCTION_LINES_MAX = 80


@functools.cache
def tracked() -> tuple[Path, ...]:
    """Returns every file of the tree that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return tuple(path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file())


def sources() -> list[Path]:
    packages = (ROOT / "zhcache", ROOT / "daemon")
    return [p for p in tracked() if p.suffix == ".py" and p.is_relative_to(ROOT)
            and any(p.is_relative_to(package) for package in packages)]  # fmt: skip


@pytest.mark.parametrize("folder", ["daemon", "systemd"])
def test_folder_is_no_package(folder):
    # As packages they would shadow python-daemon's `daemon` and python-systemd's `systemd`.
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_hold_no_packages_and_no_name_twice():
    tests = [path for path in tracked() if path.is_relative_to(ROOT / "tests")]
    assert [path for path in tests if path.name == "__init__.py"] == []
    names = [path.name for path in tests if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_every_source_file_says_what_it_is():
    silent = [p for p in sources() if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert silent == []


def test_files_are_of_a_size_to_be_read():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert [path for path, count in lines.items() if count > FILE_LINES_MAX] == []
    assert statistics.median(lines.values()) <= FILE_LINES_MEDIAN


def test_functions_fit_on_a_screen():
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_names_say_what_a_thing_is():
    vague = re.compile(r"(^|_)(manager|helper|helpers|util|utils|misc|common)(_|$)")
    assert [path for path in sources() if vague.search(path.stem)] == []


def test_only_the_clock_asks_for_the_time():
    guilty = [
        path
        for path in sources()
        if path.is_relative_to(ROOT / "daemon")
        and path.name != "clock.py"
        and re.search(r"\btime\.time\(|\bdatetime\.now\(", path.read_text("utf-8"))
    ]
    assert guilty == []


def test_generated_documents_are_what_the_code_says():
    # In a process of its own: making the help chooses a language, which is state of the process.
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "repo" / "generate_docs.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_architecture_stays_short_enough_to_be_read():
    assert len((ROOT / "ARCHITECTURE.md").read_text("utf-8").splitlines()) <= 200


def test_files_that_architecture_names_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = re.findall(r"`((?:zhcache|daemon/zhcached|docs)/[\w/.-]+)`", text)
    short = re.findall(r"`((?:api|jobs|sources|store|fetch)/[\w]+\.py)`", text)
    paths = [ROOT / name for name in named] + [ROOT / "daemon/zhcached" / name for name in short]
    missing = [str(path) for path in paths if not path.exists() and "NNNN" not in path.name]
    assert (paths != [], missing) == (True, [])


def defaults(section: str, struct: type[msgspec.Struct]) -> list[tuple[str, str, object]]:
    return [(section, field.encode_name, field.default) for field in msgspec.structs.fields(struct)]


KEYS = [
    *defaults("[store]", config.StoreConfig),
    *defaults("[[source]]", config.SourceConfig),
    *defaults("[download]", config.DownloadConfig),
    *defaults("[residency]", config.ResidencyConfig),
    *defaults("[recipe.NAME]", config.RecipeConfig),
    *defaults("[convert]", config.ConvertConfig),
    *defaults("[serve]", config.ServeConfig),
    *defaults("[swarm]", config.SwarmConfig),
    *defaults("[follow]", config.FollowConfig),
    *defaults("[watch]", config.WatchConfig),
    *(key for key in defaults("[chinese]", config.ChineseConfig) if key[1] != "encoder"),
    *defaults("[[chinese.encoder]]", config.EncoderConfig),
]


def documented(reference: str) -> dict[tuple[str, str], str]:
    text = (ROOT / reference).read_text("utf-8")
    rows = re.findall(r"^\| `(\[+[\w.]+\]+)` `(\w+)` \| ([^|]+) \|", text, re.MULTILINE)
    return {(section, key): default.strip().strip("`") for section, key, default in rows}


def meant(section: str, key: str, written: str) -> object:
    """Returns the value a reader who wrote the documented default would configure."""
    if (section.strip("[]"), key) in measures.SIZES:
        return units.parse_size(written)
    if (section.strip("[]"), key) in measures.TIMES:
        return units.parse_duration(written)
    if (section.strip("[]"), key) in measures.SHARES:
        return units.parse_share(written)
    return {
        "–": msgspec.NODEFAULT,
        "none": None,
        "无": None,
        "[]": (),
        "false": False,
        "true": True,
        '""': "",
    }.get(written, int(written) if written.isdigit() else written)


@pytest.mark.parametrize("reference", REFERENCES)
def test_reference_names_every_configuration_key_with_its_default(reference):
    rows = documented(reference)
    assert set(rows) == {(section, key) for section, key, _ in KEYS}
    for section, key, default in KEYS:
        assert meant(section, key, rows[section, key]) == default, f"{reference}: {section} {key}"


@pytest.mark.parametrize(("page", "sources"), [
    ("reference", ["lab-mirror", "huggingface"]), ("lab", ["mirror", "store"])
])  # fmt: skip
@pytest.mark.parametrize("language", ["", ".zh"])
def test_example_configuration_is_accepted(page, sources, language, tmp_path):
    text = (ROOT / "docs" / f"{page}{language}.md").read_text("utf-8")
    path = tmp_path / "config.toml"
    named = []
    for example in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        path.write_text(example, "utf-8")
        named += [source.name for source in config.load([path], {}).sources]
    assert named == sources


@pytest.mark.parametrize("reference", REFERENCES)
def test_reference_lists_every_exit_code(reference):
    from zhcache import errors

    codes = {kind.exit_code for kind in errors._tree(errors.ZhcacheError).values()} | {0}
    text = (ROOT / reference).read_text("utf-8")
    listed = {int(code) for code in re.findall(r"\| (\d+) \| [^|\d]", text)}
    assert codes <= listed


@pytest.mark.parametrize("readme", READMES)
def test_readme_documents_every_command(readme):
    from zhcache.cli import COMMANDS

    text = (ROOT / readme).read_text("utf-8")
    known = re.findall(r"`(?:zhcache )?([a-z]+)[ `]", text)
    assert sorted(set(COMMANDS) - set(known)) == []


DOCUMENTS = [
    *(ROOT / name for name in (*READMES, "ARCHITECTURE.md")),
    *(ROOT / "docs").glob("*.md"),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document):
    text = document.read_text("utf-8")
    folder = document.parent
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in t]
    assert [target for target in targets if not (folder / target).exists()] == []


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("*.zh.md")), ids=lambda path: path.stem
)
def test_chinese_page_has_the_parts_and_the_code_of_the_english_one(page):
    pages = [path.read_text("utf-8") for path in (page, page.with_name(page.name[:-6] + ".md"))]
    parts = [re.findall(r"^(#{1,4}) ", text, re.MULTILINE) for text in pages]
    fences = [re.findall(r"^```(\w*)$", text, re.MULTILINE) for text in pages]
    assert (parts[0], fences[0]) == (parts[1], fences[1])


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decision_has_all_its_parts(path):
    text = path.read_text("utf-8")
    assert re.fullmatch(r"# \d{4} .+", text.splitlines()[0])
    assert re.search(r"^Date: \d{4}-\d{2}-\d{2}$", text, re.MULTILINE)
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    bodies = {head: body.strip() for head, body in zip(parts[::2], parts[1::2], strict=True)}
    for head in ("Context", "Options", "Outcome", "Consequence"):
        assert len(bodies.get(head, "")) > 40, f"{path.name}: {head}"


def test_decisions_are_numbered_once_and_all_in_the_index():
    numbers = [path.name[:4] for path in DECISIONS]
    assert numbers == sorted(set(numbers)) != []
    index = (ROOT / "docs" / "decisions" / "README.md").read_text("utf-8")
    assert [path.name for path in DECISIONS if f"({path.name})" not in index] == []


def test_every_version_is_pinned_exactly():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line)] == []


def test_picture_is_well_formed():
    from xml.etree import ElementTree

    root = ElementTree.parse(ROOT / "docs" / "prefetch.svg").getroot()
    assert root.tag.endswith("svg")
