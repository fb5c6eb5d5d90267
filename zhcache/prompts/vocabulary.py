"""The words that prompts are generated of: the built-in ones, or those of a JSON or TOML file."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from zhcache.errors import NotFound, UsageError
from zhcache.prompts import lexicon

Vocabulary = Mapping[str, Iterable[str]] | str | os.PathLike[str]
"""Words by class, or the file that holds them."""


def vocabulary_of(given: Vocabulary | None = None) -> dict[str, tuple[str, ...]]:
    """Returns the words of every class, each once; the built-in ones of a class not given.

    Raises:
        UsageError: A file that cannot be read, a class that there is not, or one without words;
            the message names the file, the class and the reason.
        NotFound: There is no such file.
    """
    words = dict(lexicon.vocabulary())
    if given is None:
        return words
    if isinstance(given, Mapping):
        where, said = "vocabulary", cast("Mapping[Any, Any]", given)
    else:
        where, said = os.fspath(given), _read(Path(given).expanduser())
    for key, value in said.items():
        if key not in words:
            raise UsageError(
                "{where}: {key}: there is no such class of words",
                hint="the classes are {classes}",
                where=where,
                key=key,
                classes=", ".join(words),
            )
        words[key] = _words(where, key, value)
    return words


def _words(where: str, key: str, value: Any) -> tuple[str, ...]:
    listed = [] if isinstance(value, str | Mapping) or not isinstance(value, Iterable) else value
    words = list(cast("Iterable[Any]", listed))
    if not words:
        raise UsageError(
            "{where}: {key}: not a list with at least one word",
            hint='write it as {key} = ["…", "…"]',
            where=where,
            key=key,
        )
    for word in words:
        if not isinstance(word, str) or not word.strip() or not word.isprintable():
            raise UsageError(
                "{where}: {key}: {word} is no word",
                hint="words are texts of one line that are not empty",
                where=where,
                key=key,
                word=ascii(word),
            )
    # Twice the same word would draw its prompts twice.
    return tuple(dict.fromkeys(word.strip() for word in words))


def _read(file: Path) -> dict[str, Any]:
    """Returns what a file says; JSON by its name, else TOML."""
    is_json = file.suffix.lower() == ".json"
    try:
        text = file.read_text("utf-8-sig")
        said: object = json.loads(text) if is_json else tomllib.loads(text)
    except FileNotFoundError as error:
        raise NotFound("there is no file {where}", where=file) from error
    except OSError as error:
        raise UsageError(
            "{where} cannot be read: {reason}", where=file, reason=error.strerror or error
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "{where} is not {form}: {reason}",
            hint="a vocabulary is a file in UTF-8, .json or .toml, with a list of words by class",
            where=file,
            form="JSON" if is_json else "TOML",
            reason=error,
        ) from error
    if not isinstance(said, dict):
        raise UsageError(
            "{where} is not an object of lists of words",
            hint='{{"subjects": ["…", "…"]}}',
            where=file,
        )
    return cast("dict[str, Any]", said)
