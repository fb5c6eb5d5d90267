"""The pages for operators: what they tell to write is understood, and the same in both."""

import re
from pathlib import Path

import pytest

from zhcached import config

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [DOCS / "scale.md", DOCS / "scale.zh.md"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def bare(block):
    """Returns a block without its comments."""
    return [re.sub(r"\s*#.*", "", line) for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_is_understood(page, tmp_path):
    found = blocks(page, "toml")
    assert len(found) == 9
    for text in found:
        path = tmp_path / "config.toml"
        path.write_text(text)
        read = config.load([path], {})
        assert read.serve.listen or read.swarm.enabled or [one.endpoint for one in read.sources]


@pytest.mark.parametrize("language", ["toml", "yaml", "sh"])
def test_both_languages_say_to_write_the_same(language):
    english, chinese = (list(map(bare, blocks(page, language))) for page in PAGES)
    assert english == chinese


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_places_that_are_named_are_there(page):
    text = page.read_text("utf-8")
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text)
    assert named
    for name in named:
        assert (DOCS / name).exists(), name
    headings = {_anchor(line) for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def _anchor(heading):
    """Returns what the heading is linked by, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
