"""``zhcache serve``: other machines use this store as a hub."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from zhcache.cli.base import Command, Option, Output, Session, output_options, pass_session
from zhcache.cli.table import when
from zhcache.errors import DaemonUnreachable, UsageError
from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.gateway import GatewayRequest, GatewayState


@click.command(
    "serve",
    cls=Command,
    help=mark(
        "Let other machines use this store as HF_ENDPOINT or ModelScope endpoint.\n\n"
        "Serves until it is interrupted. What is not in the store is fetched as it is asked for."
    ),
)
@click.option(
    "--listen",
    cls=Option,
    metavar="ADDR",
    default="",
    help=mark("HOST:PORT; 127.0.0.1:8590 by default, 0.0.0.0:8590 for all machines."),
)
@click.option(
    "--token-file",
    cls=Option,
    metavar="FILE",
    help=mark("A file with the token that clients must show."),
)
@click.option(
    "--rate", cls=Option, metavar="R", help=mark("Bytes a second to all clients, such as 50MiB.")
)
@click.option(
    "--detach",
    cls=Option,
    is_flag=True,
    help=mark("Leave it on, across restarts of the daemon, until --stop."),
)
@click.option("--stop", "is_stop", cls=Option, is_flag=True, help=mark("Stop serving."))
@click.option("--status", "is_status", cls=Option, is_flag=True, help=mark("Show what is served."))
@output_options
@pass_session
def command(
    session: Session,
    *,
    listen: str,
    token_file: str | None,
    rate: str | None,
    detach: bool,
    is_stop: bool,
    is_status: bool,
    output: Output,
) -> None:
    """Serves in the foreground, or starts, shows or stops what is left on."""
    if sum((detach, is_stop, is_status)) > 1:
        raise UsageError("--detach, --stop and --status exclude each other")
    if is_status or is_stop:
        client = session.client
        _show(client.stop_serving() if is_stop else client.gateway(), output)
        return
    token = None if token_file is None else _token(token_file)
    request = GatewayRequest(listen=listen, token=token, rate=rate, detach=detach)
    # Ends as Ctrl-C does: what follows is the end of the connection, by which the gateway stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serving = False
    for state in session.client.serve(request):
        if not serving:
            _show(state, output)
            sys.stdout.flush()
        serving = state.serving
    if detach:
        return
    if serving:
        raise DaemonUnreachable(
            "the daemon stopped, and the gateway with it",
            hint="`zhcache serve --detach` leaves it on across restarts",
        )
    output.say(mark("The gateway was stopped."))


def _token(path: str) -> str:
    try:
        token = Path(path).expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "the token file {path} cannot be read: {reason}", path=path, reason=error
        ) from error
    if not token or not token.isascii() or any(char.isspace() for char in token):
        raise UsageError(
            "{path} holds no token",
            hint="one line of ASCII characters: openssl rand -hex 32 > {path}",
            path=path,
        )
    return token


def _show(state: GatewayState, output: Output) -> None:
    output.emit(state, ids=[state.url] if state.serving else [], text=lambda: _lines(state))


def _lines(state: GatewayState) -> Iterator[str]:
    if not state.serving:
        yield translate(mark("The gateway is off: this store is not served to other machines."))
        if state.problem:
            yield translate(mark("It could not be started: {reason}"), reason=state.problem)
        return
    yield translate(mark("Serving at {url}"), url=state.url)
    yield translate(mark("On other machines, for clients of either hub:"))
    yield f"  export HF_ENDPOINT={state.url}"
    yield f"  export MODELSCOPE_ENDPOINT={state.url}"
    if state.token:
        yield translate(mark("They show the token as HF_TOKEN or MODELSCOPE_API_TOKEN."))
    yield translate(
        mark(
            "Since {time}: {clients} connections, {requests} requests, {sent} sent, {pulls} coming"
        ),
        time=when(state.since),
        clients=state.clients,
        requests=state.requests,
        sent=size(state.bytes_sent),
        pulls=state.pulls,
    )
