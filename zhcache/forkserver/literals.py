"""Which variables a script sets by itself, as far as its source says so.

``os.environ["HF_ENDPOINT"] = "https://..."`` above ``import diffusers`` is what many scripts begin
with. Reading it from the source beforehand finds the server whose imports have seen that value.
It is a guess and may be wrong either way: what counts is looked at again when the script imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

_MAX_BYTES = 2**20


def assigned(script: str, environ: dict[str, str]) -> dict[str, str | None]:
    """Returns the variables that ``script`` sets, or with None removes, at its top level.

    Args:
        script: A file; one that cannot be read or parsed sets nothing.
        environ: What ``setdefault`` finds.
    """
    try:
        path = Path(script)
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return {}
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, str | None] = {}
    for statement in tree.body:
        for name, value, is_default in _effects(statement):
            if not is_default or found.get(name, environ.get(name)) is None:
                found[name] = value
    return {name: value for name, value in found.items() if environ.get(name) != value}


def _effects(statement: ast.stmt) -> Iterator[tuple[str, str | None, bool]]:
    """Yields name, value and whether it is a default."""
    match statement:
        case ast.Assign(targets=[ast.Subscript(value=where, slice=ast.Constant(str(name)))]):
            if _is_environ(where) and isinstance(value := _literal(statement.value), str):
                yield name, value, False
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=where, attr=method)) as call):
            if _is_environ(where):
                yield from _of_call(method, call)
        case ast.Delete(targets=targets):
            for target in targets:
                match target:
                    case ast.Subscript(value=where, slice=ast.Constant(str(name))):
                        if _is_environ(where):
                            yield name, None, False
                    case _:
                        pass
        case _:
            pass


def _of_call(method: str, call: ast.Call) -> Iterator[tuple[str, str | None, bool]]:
    arguments = [_literal(argument) for argument in call.args]
    match method, arguments:
        case "setdefault", [str(name), str(value)]:
            yield name, value, True
        case "pop", [str(name), *_]:
            yield name, None, False
        case "update", _:
            pairs = dict(arguments[0]) if arguments and isinstance(arguments[0], dict) else {}
            pairs |= {word.arg: _literal(word.value) for word in call.keywords if word.arg}
            for name, value in pairs.items():
                if isinstance(name, str) and isinstance(value, str):
                    yield name, value, False
        case _:
            pass


def _is_environ(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id="os"), attr="environ") | ast.Name(id="environ"):
            return True
        case _:
            return False


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
