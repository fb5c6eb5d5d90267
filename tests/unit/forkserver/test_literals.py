"""Variables that a script's source sets, read before it runs."""

from pathlib import Path

import pytest

from zhcache.forkserver.literals import assigned

CASES = {
    "os.environ['A'] = 'x'": {"A": "x"},
    "from os import environ\nenviron['A'] = 'x'": {"A": "x"},
    "os.environ['A'] = 'x'\nos.environ['A'] = 'y'": {"A": "y"},
    "os.environ.setdefault('A', 'x')": {"A": "x"},
    "os.environ.setdefault('HELD', 'x')": {},
    "os.environ['HELD'] = 'held'": {},
    "del os.environ['HELD']": {"HELD": None},
    "os.environ.pop('HELD', None)": {"HELD": None},
    "os.environ.pop('ABSENT', None)": {},
    "os.environ.pop('HELD')\nos.environ.setdefault('HELD', 'x')": {"HELD": "x"},
    "os.environ.update({'A': 'x'}, B='y')": {"A": "x", "B": "y"},
    "os.environ['A'] = value()": {},
    "os.environ[name] = 'x'": {},
    "os.environ['A'] = 1": {},
    "os.environ['A'] = ('x' 'y')": {"A": "xy"},
    "def f():\n    os.environ['A'] = 'x'": {},
    "if True:\n    os.environ['A'] = 'x'": {},
    "settings['A'] = 'x'": {},
    "not python": {},
    "\0": {},
    "": {},
}


@pytest.mark.parametrize("text", CASES)
def test_assignments_at_the_top_level_are_found(tmp_path: Path, text: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(text)
    assert assigned(str(script), {"HELD": "held"}) == CASES[text]


def test_what_cannot_be_read_sets_nothing(tmp_path: Path) -> None:
    assert assigned(str(tmp_path / "missing.py"), {}) == {}
    assert assigned(str(tmp_path), {}) == {}
    assert assigned("a\0b", {}) == {}
    large = tmp_path / "large.py"
    large.write_text("os.environ['A'] = 'x'\n" + "#" * 2**20)
    assert assigned(str(large), {}) == {}
