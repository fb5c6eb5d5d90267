"""What the path of a Hugging Face request asks for. Pure.

A path alone does not tell ``gpt2/tree/main`` (a repository of one part) from a repository
``gpt2/tree``; what follows decides. Segments are unquoted one by one, so that ``refs%2Fpr%2F1`` is
one revision; ``refs/pr/1`` written with its slashes is understood too, as the hub does.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import unquote

Verb = Literal["info", "tree", "paths", "refs", "xet", "other"]
_VERBS: dict[str, Verb] = {
    "revision": "info",
    "tree": "tree",
    "paths-info": "paths",
    "refs": "refs",
    "xet-read-token": "xet",
}
_WITHOUT_REVISION = "refs"


class Asked(NamedTuple):
    """A parsed path: names as they came, not yet checked. Empty where the path has none."""

    verb: Verb
    repo: str
    revision: str = ""
    path: str = ""


def api(tail: str) -> Asked:
    """Returns what ``/api/models/<tail>`` asks for; ``tail`` is still quoted."""
    segments = [segment for segment in tail.split("/") if segment]
    parts = 1 if len(segments) == 1 or (_is_verb(segments, 1) and not _is_verb(segments, 2)) else 2
    repo = "/".join(unquote(segment) for segment in segments[:parts])
    if len(segments) <= parts:
        return Asked("info", repo)
    verb = _VERBS.get(segments[parts], "other")
    rest = segments[parts + 1 :]
    if verb == "tree":
        return Asked(verb, repo, *_revision_and_path(rest))
    return Asked(verb, repo, unquote("/".join(rest)))


def file(repo: str, tail: str) -> Asked:
    """Returns what ``/<repo>/resolve/<tail>`` asks for; both are still quoted."""
    return Asked("other", unquote(repo), *_revision_and_path(tail.split("/")))


def _is_verb(segments: list[str], place: int) -> bool:
    if len(segments) <= place or segments[place] not in _VERBS:
        return False
    return segments[place] == _WITHOUT_REVISION or len(segments) > place + 1


def _revision_and_path(segments: list[str]) -> tuple[str, str]:
    # ``refs`` alone is no revision anybody has; those of pull requests have three parts.
    words = 3 if segments[:1] == ["refs"] and len(segments) >= 3 else 1
    revision = "/".join(unquote(segment) for segment in segments[:words])
    return revision, "/".join(unquote(segment) for segment in segments[words:])
