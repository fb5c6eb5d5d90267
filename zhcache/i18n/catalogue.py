"""Keeps the Chinese catalogue in step with the source.

``python -m zhcache.i18n.catalogue`` prints what the catalogue lacks and what it has too much;
``--update`` adds the missing texts to ``zhcache.po`` with an empty translation and drops the
unused, and ``--compile`` writes ``zhcache.mo``. Run in a source checkout; needs babel.

What counts as a text: the literal first argument of ``translate``, ``mark`` and ``_``; of the
classes of ``zhcache.errors`` their template and ``hint=``; of ``Check`` its ``detail=`` and
``fix=``. A name is looked up among the module's constants; of a choice both sides count.
"""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zhcache import errors
from zhcache.i18n import DOMAIN, LOCALES

PO = LOCALES / "zh_CN" / "LC_MESSAGES" / f"{DOMAIN}.po"
MO = PO.with_suffix(".mo")
ROOT = LOCALES.parent.parent
FOLDERS = (ROOT / "zhcache", ROOT / "daemon" / "zhcached")

_FUNCTIONS = {"translate", "mark", "_"}
_ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.ZhcacheError)
}
_KEYWORDS = {"Check": {"detail", "fix"}, **{name: {"hint"} for name in _ERRORS}}
_FIRST = _FUNCTIONS | _ERRORS


def texts(source: str) -> Iterator[str]:
    """Yields the translatable texts of one module."""
    tree = ast.parse(source)
    constants = dict(_constants(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _called(node.func)
        if name in _FIRST and node.args:
            yield from _literals(node.args[0], constants)
        for keyword in node.keywords:
            if keyword.arg in _KEYWORDS.get(name, ()):
                yield from _literals(keyword.value, constants)


def used(folders: Iterable[Path] = FOLDERS) -> dict[str, list[str]]:
    """Returns every translatable text of the source with the files that use it."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            for text in texts(file.read_text("utf-8")):
                where = file.relative_to(ROOT).as_posix()
                if text and where not in found.setdefault(text, []):
                    found[text].append(where)
    return found


def click_texts() -> set[str]:
    """Returns what click itself translates; the catalogue holds some of it."""
    import click

    found: set[str] = set()
    for file in Path(click.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and _called(node.func) in ("_", "ngettext"):
                for argument in node.args:
                    found.update(_literals(argument, {}))
    return found


def missing() -> dict[str, list[str]]:
    """Returns the texts that have no translation, with the files that use them."""
    known = {message.id for message in read() if message.string}
    return {text: where for text, where in used().items() if text not in known}


def read() -> Any:
    """Returns the catalogue as babel reads it."""
    from babel.messages.pofile import read_po

    with PO.open("rb") as file:
        return read_po(file, locale="zh_CN", domain=DOMAIN)


def compiled() -> bytes:
    """Returns what ``zhcache.mo`` is to hold."""
    from babel.messages.mofile import write_mo

    out = io.BytesIO()
    write_mo(out, read())
    return out.getvalue()


def update() -> None:
    """Adds the missing texts to the catalogue, to be translated by hand; drops the unused."""
    from babel.messages.pofile import write_po

    catalogue = read()
    for text in obsolete():
        catalogue.delete(text)
    for text, where in missing().items():
        catalogue.add(text, locations=[(file, None) for file in where])
    with PO.open("wb") as file:
        write_po(file, catalogue, width=100, include_lineno=False)


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name):
                yield target.id, node.value
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            yield node.target.id, node.value


def _literals(node: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _literals(node.body, constants)
        yield from _literals(node.orelse, constants)
    elif isinstance(node, ast.Name) and node.id in constants:
        yield from _literals(constants[node.id], {})


def _called(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _main(options: list[str]) -> int:
    if "--update" in options:
        update()
    if "--compile" in options:
        MO.write_bytes(compiled())
    lacking = missing()
    for text, where in lacking.items():
        print(f"{', '.join(where)}: {text!r}")  # noqa: T201
    for text in sorted(obsolete()):
        print(f"no longer used: {text!r}")  # noqa: T201
    return 1 if lacking else 0


def obsolete() -> set[str]:
    """Returns the texts of the catalogue that nothing uses any more."""
    known = set(used()) | click_texts()
    return {
        text
        for message in read()
        if message.id
        for text in (message.id if isinstance(message.id, tuple) else (message.id,))
        if text not in known
    }


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
