"""Names, parsed once: repositories, revisions, paths inside a repository.

Whoever holds one of these types holds a checked value. Names come from users and from hubs, and
a hub is not trusted: a path that passes here can be joined to a folder of ours and stays in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from zhcache.errors import IntegrityError, UsageError

RepoPath = NewType("RepoPath", str)
"""A relative POSIX path that passed ``parse_path``."""

Revision = NewType("Revision", str)
"""A branch, tag, ``refs/pr/N`` or full commit that passed ``parse_revision``."""

Variant = NewType("Variant", str)
"""The name of a variant that passed ``parse_variant``."""

_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]{0,198}[A-Za-z0-9_+-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VARIANT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
LOCAL = "local"
"""Who owns what was taken in without a name: no hub is asked for it."""

MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True, order=True)
class RepoId:
    """A repository's name, ``owner/name`` or the bare ``name`` of old hub models."""

    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}" if self.owner else self.name

    @property
    def folder(self) -> str:
        """The folder name of the Hugging Face cache layout, ``models--owner--name``."""
        return "--".join(part for part in ("models", self.owner, self.name) if part)

    @classmethod
    def from_folder(cls, folder: str) -> RepoId:
        """Returns the repository a ``models--owner--name`` folder is for.

        Raises:
            UsageError: The folder is not of that form.
        """
        kind, _, rest = folder.partition("--")
        if kind != "models":
            raise UsageError("{folder} is not a model's cache folder", folder=folder)
        return parse_repo(rest.replace("--", "/", 1))


def parse_repo(text: str) -> RepoId:
    """Returns the repository named by ``text``.

    Raises:
        UsageError: Not ``owner/name``; each part is letters, digits, ``.``, ``_``, ``-``, at most
            96 long, without ``--`` or ``..`` (the Hugging Face grammar, which ModelScope's fits).
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError("{text} is not a repository name", text=repr(text))
    parts = text.split("/")
    sound = (
        1 <= len(parts) <= 2
        and all(_SEGMENT.fullmatch(part) for part in parts)
        and "--" not in text
        and ".." not in text
    )
    if not sound:
        raise UsageError(
            "{text} is not a repository name",
            hint="write it as OWNER/NAME, for example runwayml/stable-diffusion-v1-5",
            text=printable(text),
        )
    owner, name = parts if len(parts) == 2 else ("", parts[0])
    return RepoId(owner, name)


def repo_of_file(name: str) -> RepoId:
    """Returns the repository ``local/...`` that a file is called if nobody names it.

    What no repository's name may have becomes a hyphen.

    Raises:
        UsageError: Nothing is left of its name.
    """
    stem = re.sub(r"\.[A-Za-z]{1,16}$", "", name)
    cleaned = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", stem))
    cleaned = re.sub(r"\.{2,}", ".", cleaned).lstrip(".-")[:96].rstrip(".-")
    if not cleaned:
        raise UsageError(
            "no repository's name can be made of {name}",
            hint="give it one: --repo OWNER/NAME",
            name=printable(name),
        )
    return parse_repo(f"{LOCAL}/{cleaned}")


def file_path(name: str) -> RepoPath:
    """Returns what records call a file of that name: the name, if a path may be called so."""
    try:
        return parse_path(name)
    except IntegrityError:
        return parse_path("checkpoint.safetensors")


def parse_revision(text: str) -> Revision:
    """Returns the revision named by ``text``.

    Raises:
        UsageError: Not a branch, tag, ``refs/pr/N`` or commit that can also be a file name.
    """
    sound = (
        _REVISION.fullmatch(text)
        and ".." not in text
        and "//" not in text
        and "/." not in text
        and not any(part.endswith((".lock", ".")) for part in text.split("/"))
    )
    if not sound:
        raise UsageError(
            "{text} is not a revision",
            hint="give a branch, a tag or a full commit of 40 hex digits",
            text=printable(text),
        )
    return Revision(text)


def parse_variant(text: str) -> Variant:
    """Returns the name ``text`` of a variant.

    Raises:
        UsageError: Not lower-case letters, digits, ``_``, ``.`` and ``-``, at most 64, beginning
            with a letter or digit.
    """
    if not _VARIANT.fullmatch(text):
        raise UsageError(
            "{text} is not a variant's name",
            hint="it has lower-case letters, digits, _, . and -, for example fp16",
            text=printable(text),
        )
    return Variant(text)


def is_commit(text: str) -> bool:
    """Tells whether ``text`` is a full commit: 40 lower-case hex digits."""
    return _COMMIT.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Tells whether ``text`` is a sha256 in 64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


def parse_path(text: str) -> RepoPath:
    """Returns the path ``text`` of a file in a repository.

    Raises:
        IntegrityError: Absolute, empty, too long, with ``.``, ``..``, a backslash, a control or
            format character. Such a name in a listing is an attack or damage, never a thing to
            repair.
    """
    reason = _path_fault(text)
    if reason:
        raise IntegrityError(
            "the listing names a file {text} that {reason}",
            hint="this source cannot be trusted with this repository; try another with --source",
            text=printable(text),
            reason=reason,
        )
    return RepoPath(text)


def _path_fault(text: str) -> str:
    if not text:
        return "has no name"
    if text.startswith("/") or "\\" in text:
        return "is absolute or has a backslash"
    if any(
        unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in text
    ):
        return "has control or unassigned characters"
    segments = text.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        return "leaves its folder"
    if any(segment != segment.strip() for segment in segments):
        return "begins or ends with a space"
    if len(text.encode()) > MAX_PATH_BYTES or len(segments) > MAX_DEPTH:
        return "is too long"
    if any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
        return "is too long"
    if segments[0] == ".git":
        return "lies in .git"
    return ""


def check_listing(paths: Iterable[RepoPath]) -> None:
    """Checks that the files of a listing can lie side by side in one folder.

    Raises:
        IntegrityError: A path stands twice, in whatever Unicode form, or one is both a file and a
            folder.
    """
    files: set[str] = set()
    forms: set[str] = set()
    for path in paths:
        # A name in Unicode form NFD is an upload from a Mac; beside the same name in NFC it is one
        # file for some readers and two for others.
        form = unicodedata.normalize("NFC", path)
        if form in forms:
            raise IntegrityError("the listing names {path} twice", path=path)
        forms.add(form)
        files.add(path)
    for path in files:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in files:
                raise IntegrityError(
                    "the listing names {parent} as a file and as a folder", parent=parent
                )
            parent = parent.rpartition("/")[0]


def printable(text: str, limit: int = 120) -> str:
    """Returns ``text`` as it may be shown: escaped, quoted and cut, since it may be hostile."""
    shown = text if len(text) <= limit else text[:limit] + "…"
    return "'" + "".join(c if c.isprintable() and c != "'" else repr(c)[1:-1] for c in shown) + "'"
