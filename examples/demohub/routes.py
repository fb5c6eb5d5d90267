"""What a request's target asks for, in either protocol. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

_HF_VERBS = {"revision": "info", "tree": "tree", "paths-info": "paths", "refs": "refs"}


@dataclass(frozen=True, slots=True)
class Route:
    """A parsed target.

    Attributes:
        protocol: ``huggingface``, ``modelscope`` or ``signed`` (the data plane's URLs).
        verb: ``file`` for bytes; ``info``, ``tree``, ``paths``, ``refs``, ``files``,
            ``revisions``, ``region`` for the rest; ``none`` for what neither hub has.
    """

    protocol: str
    verb: str = "none"
    repo: str = ""
    revision: str = ""
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)


def parse_target(target: str, repos: Collection[str]) -> Route:
    """Reads a request target; ``repos`` tells old one-word repository names from owners."""
    split = urlsplit(target)
    segments = [segment for segment in split.path.split("/")[1:] if segment]
    query = dict(parse_qsl(split.query, keep_blank_values=True))
    match segments:
        case ["signed", repo, *path]:
            return Route("signed", "file", unquote(repo), "", _joined(path), query)
        case ["openapi", "v1", "models", *rest]:
            return Route("modelscope", "info", _joined(rest), query=query)
        case ["api", "v1", "repos", "internalAccelerationInfo"]:
            return Route("modelscope", "region")
        case ["api", "v1", "models", *rest]:
            return _modelscope(rest, query)
        case ["api", "models", *rest] if rest:
            return _huggingface_api(rest, query, repos)
        case ["models", *rest] if "resolve" in rest[1:3]:
            return _resolve("modelscope", rest, query)
        case [_, *rest] if "resolve" in rest[:2]:
            return _resolve("huggingface", segments, query)
        case _:
            return Route("huggingface")


def _joined(segments: list[str]) -> str:
    return "/".join(unquote(segment) for segment in segments)


def _resolve(protocol: str, segments: list[str], query: dict[str, str]) -> Route:
    at = segments.index("resolve", 1, 3)
    if len(segments) < at + 3:
        return Route(protocol)
    repo, revision = _joined(segments[:at]), unquote(segments[at + 1])
    return Route(protocol, "file", repo, revision, _joined(segments[at + 2 :]), query)


def _huggingface_api(segments: list[str], query: dict[str, str], repos: Collection[str]) -> Route:
    words = 1 if len(segments) == 1 else 2
    if len(segments) > 1 and segments[1] in _HF_VERBS and _joined(segments[:2]) not in repos:
        words = 1
    repo, rest = _joined(segments[:words]), segments[words:]
    if not rest:
        return Route("huggingface", "info", repo, query=query)
    verb = _HF_VERBS.get(rest[0], "none")
    revision = unquote(rest[1]) if len(rest) > 1 else ""
    return Route("huggingface", verb, repo, revision, _joined(rest[2:]), query)


def _modelscope(segments: list[str], query: dict[str, str]) -> Route:
    repo, rest = _joined(segments[:2]), segments[2:]
    revision = query.get("Revision") or ""
    match rest:
        case []:
            return Route("modelscope", "info", repo, revision, query=query)
        case ["repo"]:
            return Route("modelscope", "file", repo, revision, query.get("FilePath", ""), query)
        case ["repo", "files"]:
            return Route("modelscope", "files", repo, revision, query.get("Root", ""), query)
        case ["revisions"]:
            return Route("modelscope", "revisions", repo, query=query)
        case _:
            return Route("modelscope")
