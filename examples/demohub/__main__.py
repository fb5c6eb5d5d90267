"""``python -m demohub``: serves folders as repositories and prints the hub's URL."""

from __future__ import annotations

import argparse
import ast
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from demohub.hub import Hub
from demohub.repos import folder_files


def parse_fault(text: str) -> tuple[str, dict[str, Any]]:
    """Reads a kind and its options, written as a call: ``cut(path="*.safetensors", at=1000)``.

    Raises:
        argparse.ArgumentTypeError: It is no such call, or a value is no literal.
    """
    try:
        match ast.parse(text, mode="eval").body:
            case ast.Name(kind):
                return kind, {}
            case ast.Call(ast.Name(kind), [], keywords):
                return kind, {k.arg or "**": ast.literal_eval(k.value) for k in keywords}
    except (SyntaxError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error}") from error
    raise argparse.ArgumentTypeError(f"{text!r} is not KIND or KIND(name=value, ...)")


def parse_repo(text: str) -> tuple[str, Path]:
    """Reads ``NAME=DIR``.

    Raises:
        argparse.ArgumentTypeError: There is no such folder.
    """
    name, _, folder = text.partition("=")
    if not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{folder!r} is no folder; give NAME=DIR")
    return name, Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demohub", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--repo", type=parse_repo, action="append", default=[], metavar="NAME=DIR")
    parser.add_argument(
        "--pipeline", action="append", default=[], metavar="NAME", help="serve a tiny real pipeline"
    )
    parser.add_argument(
        "--cdn", action="store_true", help="redirect large files to a second origin, signed"
    )
    parser.add_argument("--rate", type=int, default=0, help="bytes per second and connection")
    parser.add_argument(
        "--fault", type=parse_fault, action="append", default=[], metavar="KIND(NAME=VALUE, ...)"
    )
    return parser


def _built_pipeline() -> Path:
    from demohub import pipeline

    return pipeline.build(pipeline.shared_folder(Path(tempfile.gettempdir())))


def main() -> None:
    """Serves until interrupted or terminated."""
    parser = _parser()
    options = parser.parse_args()
    repos: list[tuple[str, Path]] = [*options.repo]
    repos += [(name, _built_pipeline()) for name in options.pipeline]
    # Blocked before any thread starts, so that the signals are left for sigwait below.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with ExitStack() as running:
        hub = running.enter_context(Hub(options.host, options.port))
        cdn = running.enter_context(Hub(options.host, name="cdn")) if options.cdn else None
        for name, folder in repos:
            hub.add(name, folder_files(folder), data_hub=cdn)
        for one in (hub, cdn) if cdn else (hub,):
            if options.rate:
                one.fault("rate", rate=options.rate)
            for kind, wanted in options.fault:
                try:
                    one.fault(kind, **wanted)
                except (TypeError, ValueError) as error:
                    parser.error(f"--fault {kind}: {error}")
        print(hub.url, flush=True)
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
