"""Where things lie on the API: paths and queries of checked names."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from zhcache.protocol.names import parse_repo, parse_revision, parse_variant

Resource = Literal["snapshots", "variants", "pins"]


def check(repo: str, revision: str | None) -> None:
    """Refuses names before they are sent.

    Raises:
        UsageError: A name is malformed.
    """
    parse_repo(repo)
    if revision is not None:
        parse_revision(revision)


def at(resource: Resource, repo: str) -> str:
    """Returns the path of one repository's resource.

    Raises:
        UsageError: The name is malformed.
    """
    parse_repo(repo)
    return f"/v1/{resource}/{quote(repo, safe='/')}"


def query(*, revision: str | None = None, variant: str | None = None) -> dict[str, str] | None:
    """Returns the query that picks a revision and a variant, None for neither.

    Raises:
        UsageError: A name is malformed.
    """
    picked: dict[str, str] = {}
    if revision is not None:
        picked["revision"] = parse_revision(revision)
    if variant is not None:
        picked["variant"] = parse_variant(variant)
    return picked or None
