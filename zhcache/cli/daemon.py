"""``zhcache daemon``: is it there, start it, stop it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

import click

from zhcache.channel import dial
from zhcache.cli.base import Command, Output, Session, output_options, pass_session
from zhcache.cli.table import when
from zhcache.client import Client
from zhcache.errors import Busy, DaemonUnreachable
from zhcache.i18n import mark, translate
from zhcache.protocol.base import Message
from zhcache.protocol.messages import Version
from zhcache.spawn import start_daemon

STOP_S = 60.0


class Stopped(Message):
    """The process that was stopped; None if there was none."""

    stopped: int | None
    schema: int = 1


class _Group(click.Group, Command):
    pass


@click.group("daemon", cls=_Group, help=mark("Show, start or stop the daemon."))
def command() -> None:
    """Groups the three."""


@command.command("status", cls=Command, help=mark("Show whether a daemon runs, and which one."))
@output_options
@pass_session
def status(session: Session, output: Output) -> None:
    """Shows the daemon; starts none."""
    with Client(spawn=False) as client:
        _show(client, client.version(), output)


@command.command("start", cls=Command, help=mark("Start a daemon in the background."))
@output_options
@pass_session
def start(session: Session, output: Output) -> None:
    """Starts a daemon if none answers; one that runs already is as good."""
    with Client(spawn=False) as client:
        try:
            dial(client.socket).close()
        except DaemonUnreachable:
            start_daemon(client.home, client.socket)
        _show(client, client.version(), output)


@command.command("stop", cls=Command, help=mark("Stop the daemon; downloads are resumed later."))
@output_options
@pass_session
def stop(session: Session, output: Output) -> None:
    """Stops the daemon and waits until it is gone; none at all is as good."""
    with Client(spawn=False) as client:
        try:
            version = client.version()
        except DaemonUnreachable:
            output.say(mark("No daemon runs."))
            output.emit(Stopped(stopped=None), ids=[], text=list)
            return
        process = _process(version.pid)
        client.stop_daemon()
        # A socket that systemd holds goes on answering, so silence only counts where the
        # process cannot be watched: it lives in another pid namespace.
        if not (_is_silent(client, STOP_S) if process is None else _is_gone(process, STOP_S)):
            raise Busy(
                "the daemon {pid} has not stopped after {seconds} s",
                hint="see `zhcache logs`",
                pid=version.pid,
                seconds=STOP_S,
            )
        output.say(mark("The daemon {pid} has stopped."), pid=version.pid)
        output.emit(Stopped(stopped=version.pid), ids=[str(version.pid)], text=list)


def _process(pid: int) -> int | None:
    """Returns a descriptor of a process: its number may be given to another one."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _is_gone(descriptor: int, deadline_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(deadline_s * 1000))
    finally:
        os.close(descriptor)


def _is_silent(client: Client, deadline_s: float) -> bool:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        try:
            dial(client.socket).close()
        except DaemonUnreachable:
            return True
        time.sleep(0.05)
    return False


def _show(client: Client, version: Version, output: Output) -> None:
    def lines() -> Iterator[str]:
        facts = (
            (mark("Version"), version.version),
            (mark("Protocol"), f"{version.protocol_min}-{version.protocol}"),
            (mark("Process"), str(version.pid)),
            (mark("User"), str(version.uid)),
            (mark("Store"), version.home),
            (mark("Socket"), str(client.socket)),
            (mark("Since"), when(version.started)),
        )
        for name, value in facts:
            yield f"{translate(name)}: {value}"

    output.emit(version, ids=[str(version.pid)], text=lines)
