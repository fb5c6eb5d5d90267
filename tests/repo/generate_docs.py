"""Writes the documents that are made from the code: ``make docs``. With ``--check`` only compares.

Three sources: module docstrings (the file table of ARCHITECTURE.md and docs/modules.md), the table
of job states (docs/jobs.md), and the command line's own help (docs/commands.md).
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "zhcache", ROOT / "daemon" / "zhcached")
STALE = "generated documents are not what the code says; run: make docs"


def modules() -> Iterator[tuple[Path, str]]:
    """Yields each source file of the two packages and the first sentence of its docstring."""
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            summary = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
            yield path.relative_to(ROOT), summary


def file_table() -> str:
    """Returns one row for each folder: what it is for, and its files."""
    files: dict[Path, list[str]] = {}
    purpose: dict[Path, str] = {}
    for path, summary in modules():
        if path.name == "__init__.py":
            purpose[path.parent] = summary
        else:
            files.setdefault(path.parent, []).append(f"`{path.stem}`")
    rows = [
        f"| `{folder}/` | {purpose.get(folder, '')} | {' '.join(files.get(folder, []))} |"
        for folder in sorted(files | dict.fromkeys(purpose), key=str)
    ]
    return "\n".join(["| folder | what it is | files |", "| --- | --- | --- |", *rows])


def module_index() -> str:
    """Returns docs/modules.md: every file with what its docstring says first."""
    lines = ["# Modules", "", "Made by `make docs` from the modules' docstrings.", ""]
    folder = None
    for path, summary in modules():
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"## {folder}/", "", "| file | what it owns |", "| --- | --- |"]
        lines.append(f"| `{path.name}` | {summary.replace('|', chr(92) + '|')} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def job_states() -> str:
    """Returns docs/jobs.md: the diagram of job states, from the one table that allows the steps.

    Those that every state allows which has not ended are left to the text beside it.
    """
    steps = importlib.import_module("zhcached.jobs.state").STEPS
    everywhere = frozenset.intersection(*(following for following in steps.values() if following))
    names = {state: state.__name__.lower() for state in steps}
    lines = ["# Job states", "", "Made by `make docs` from `daemon/zhcached/jobs/state.py`.", ""]
    lines += [
        "Back to `queued` is a daemon that stopped or was killed; back to `resolving`, a source"
    ]
    lines += ["whose files changed. `failed` and `cancelled` follow all that has not ended.", ""]
    lines += ["```mermaid", "stateDiagram-v2", f"    [*] --> {names[next(iter(steps))]}"]
    for state, following in steps.items():
        after = sorted(names[other] for other in following - everywhere)
        lines += [f"    {names[state]} --> {other}" for other in after]
        if not after:
            lines.append(f"    {names[state]} --> [*]")
    return "\n".join([*lines, "```", ""])


def commands() -> str:
    """Returns docs/commands.md: the help of every command, as the command line prints it."""
    from zhcache.cli import cli as group
    from zhcache.i18n import use

    # Help follows the reader's language; the document is in one.
    use("en")
    top = click.Context(group, info_name="zhcache", **settings(group))
    lines = ["# Commands", "", "Made by `make docs` from `zhcache COMMAND --help`.", ""]
    for name, text in helps(group, top):
        lines += [f"## {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines)


def helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """Yields the full name and the help text of ``command`` and of everything below it."""
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                inner = click.Context(below, context, name, **settings(below))
                yield from helps(below, inner)


def settings(command: click.Command) -> dict[str, Any]:
    """Returns a command's own settings at a width that does not depend on the terminal."""
    return {**command.context_settings, "max_content_width": 90, "terminal_width": 90}


def between(text: str, mark: str, inner: str) -> str:
    """Returns ``text`` with what stands between the comments ``mark`` and ``/mark`` replaced."""
    opened, closed = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, _, rest = text.partition(opened)
    _, found, after = rest.partition(closed)
    assert found, f"{opened} … {closed} is missing"
    return f"{before}{opened}\n{inner}\n{closed}{after}"


def documents() -> dict[Path, str]:
    """Returns every generated document with the text it should have."""
    architecture = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    architecture = between(architecture, "files", file_table())
    return {
        ROOT / "ARCHITECTURE.md": architecture,
        ROOT / "docs" / "jobs.md": job_states(),
        ROOT / "docs" / "modules.md": module_index(),
        ROOT / "docs" / "commands.md": commands(),
    }


def stale() -> list[str]:
    """Returns the names of the documents that are not what the code says."""
    return [
        str(path.relative_to(ROOT))
        for path, text in documents().items()
        if not path.exists() or path.read_text("utf-8") != text
    ]


def main() -> None:
    """Writes, or with ``--check`` leaves with 1 when something would be written."""
    sys.path[:0] = [str(ROOT), str(ROOT / "daemon")]
    if "--check" in sys.argv[1:]:
        if names := stale():
            sys.exit(f"{STALE} ({', '.join(names)})")
        return
    for path, text in documents().items():
        path.write_text(text, "utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
