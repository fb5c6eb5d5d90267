"""How an error is told: to a person in their language, to a program as JSON."""

from __future__ import annotations

import click
import msgspec

from zhcache.errors import ZhcacheError
from zhcache.i18n import hint_of, message_of, translate


def as_json(error: ZhcacheError) -> str:
    """Returns the error object of the contract, in English."""
    body = {"code": error.code, "message": error.message, "hint": error.hint}
    return msgspec.json.encode({"schema": 1, "error": body}).decode()


def report(error: ZhcacheError, *, is_json: bool) -> int:
    """Prints ``error`` and returns its exit code."""
    if is_json:
        click.echo(as_json(error))
        return error.exit_code
    click.echo(translate("Error: {message}", message=message_of(error)), err=True)
    if hint := hint_of(error):
        click.echo(translate("Next: {hint}", hint=hint), err=True)
    return error.exit_code
