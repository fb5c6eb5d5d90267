"""What a path of the Hugging Face protocol asks for."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcached.gateway import targets
from zhcached.gateway.targets import Asked

NAMES = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,8}[A-Za-z0-9_]\Z").filter(
    lambda name: name not in ("refs", "tree", "revision", "paths-info", "xet-read-token")
)
PATHS = st.lists(st.text("abé %+?#&=.", min_size=1, max_size=6), min_size=1, max_size=4).map(
    "/".join
)


@pytest.mark.parametrize(
    ("tail", "asked"),
    [
        ("o/n", Asked("info", "o/n")),
        ("gpt2", Asked("info", "gpt2")),
        ("gpt2/revision/main", Asked("info", "gpt2", "main")),
        ("gpt2/revision/tree", Asked("info", "gpt2", "tree")),
        ("o/n/revision/refs%2Fpr%2F1", Asked("info", "o/n", "refs/pr/1")),
        ("o/n/revision/refs/pr/1", Asked("info", "o/n", "refs/pr/1")),
        ("o/n/tree/main", Asked("tree", "o/n", "main")),
        ("o/n/tree/main/a/b%20c", Asked("tree", "o/n", "main", "a/b c")),
        ("o/n/tree/refs%2Fpr%2F1/a", Asked("tree", "o/n", "refs/pr/1", "a")),
        ("gpt2/tree/main/a", Asked("tree", "gpt2", "main", "a")),
        ("o/tree/tree/main", Asked("tree", "o/tree", "main")),
        ("o/n/paths-info/main", Asked("paths", "o/n", "main")),
        ("o/n/refs", Asked("refs", "o/n")),
        ("gpt2/refs", Asked("refs", "gpt2")),
        ("o/n/xet-read-token/main", Asked("xet", "o/n", "main")),
        ("o/n/discussions", Asked("other", "o/n")),
    ],
)
def test_api_paths(tail: str, asked: Asked):
    assert targets.api(tail) == asked


@pytest.mark.parametrize(
    ("tail", "revision", "path"),
    [
        ("main/a/b.json", "main", "a/b.json"),
        ("refs%2Fpr%2F1/a", "refs/pr/1", "a"),
        ("refs/pr/1/a/b", "refs/pr/1", "a/b"),
        ("main/a%2Fb", "main", "a/b"),
        ("main/../a", "main", "../a"),
        ("main", "main", ""),
    ],
)
def test_file_paths(tail: str, revision: str, path: str):
    assert targets.file("o/n", tail) == Asked("other", "o/n", revision, path)


@given(owner=NAMES, name=NAMES, revision=NAMES, path=PATHS)
def test_what_a_client_quotes_is_what_is_read(owner: str, name: str, revision: str, path: str):
    repo = f"{owner}/{name}"
    assert targets.file(repo, f"{revision}/{quote(path)}")[1:] == (repo, revision, path)
    asked = targets.api(f"{repo}/revision/{quote(f'refs/convert/{revision}', safe='')}")
    assert asked == Asked("info", repo, f"refs/convert/{revision}")
