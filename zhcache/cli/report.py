"""How an error is told: to a person in their language, to a program as JSON."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any

import click
import msgspec

from zhcache.cli.table import printable
from zhcache.errors import ZhcacheError
from zhcache.i18n import hint_of, message_of, translate


def json_line(value: object) -> str:
    """Returns ``value`` as JSON that is one line to every reader.

    U+2028 and its kin may stand raw in JSON, but many a program ends a line there. What is no text
    in the name of a file becomes U+FFFD, as JSON can say nothing else.
    """
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(_spelt(msgspec.to_builtins(value))).decode()
    for char in "\u0085\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def as_json(error: ZhcacheError) -> str:
    """Returns the error object of the contract, in English."""
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    return json_line({"schema": 1, "error": body})


def report(error: ZhcacheError, *, is_json: bool) -> int:
    """Prints ``error`` and returns its exit code.

    As JSON it goes to stdout; where that takes nothing, to stderr for people.
    """
    if is_json:
        try:
            click.echo(as_json(error))
        except OSError:
            discard_stdout()
        else:
            return error.exit_code
    with contextlib.suppress(OSError):
        click.echo(translate("Error: {message}", message=_shown(message_of(error))), err=True)
        if hint := hint_of(error):
            click.echo(translate("Next: {hint}", hint=_shown(hint)), err=True)
    return error.exit_code


def discard_stdout() -> None:
    """Lets what is still to be written to stdout go nowhere; nothing may be flushed at exit."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, sys.stdout.fileno())
    os.close(fd)


def _spelt(value: Any) -> Any:
    """Returns what was built of plain values without halves of characters."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, dict):
        return {_spelt(key): _spelt(each) for key, each in value.items()}
    return [_spelt(each) for each in value] if isinstance(value, list) else value


def _shown(text: str) -> str:
    # It quotes names that hubs and other users gave.
    return printable(text, but="\n\t")
