"""``load_pipeline(mode="resident")``: finds or starts the worker, and gives a stand-in for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from zhcache import paths
from zhcache.chinese.choose import check_asked
from zhcache.chinese.reader import Reader
from zhcache.errors import DaemonUnreachable, Incomplete, NotFound, UsageError, VersionMismatch
from zhcache.protocol.residency import Placement, Progress, ResidentRequest
from zhcache.resident.conversation import Conversation
from zhcache.resident.encode import Encoder
from zhcache.resident.session import Session
from zhcache.resident.standin import ResidentPipeline
from zhcache.waiting import shown


def open_resident(
    repo: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    device: str | Sequence[str] = "auto",
    chinese: str | None = "auto",
    timeout: float | None = None,
    attention: str | None = None,
    compile: bool = False,
    memory: str | int | None = None,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
    unaided: bool = False,
    chinese_keep: Sequence[str] = (),
    placement: Placement = "replicate",
) -> ResidentPipeline:
    """Returns a stand-in for ``repo``'s pipeline in a worker, which is started if need be.

    Args:
        repo: ``OWNER/NAME``. What is not in the store is fetched first.
        variant: As ``load_pipeline`` takes it.
        revision: Branch, tag or commit; None is the default branch.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a GPU's UUID; several have a worker each.
        chinese: As ``load_pipeline`` takes it.
        timeout: Seconds to wait until it is ready; None waits as long as there is progress.
        attention: A backend of diffusers' ``set_attention_backend``.
        compile: Whether the repeated blocks are compiled.
        memory: As ``zhcache.pipeline.fit.parse`` returns it.
        options: Further arguments of ``from_pretrained``. ``scheduler`` holds for all calls.
        on_progress: Told what is waited for while the worker starts; None shows it on a terminal.
        unaided: Starts no daemon and fetches nothing; what is not there is an error.
        chinese_keep: As ``load_pipeline`` takes it.
        placement: What several devices are for; with all but ``replicate`` one worker has them.
            ``auto`` is ``replicate`` where one of them could have room for all of it, else
            ``split``.

    Raises:
        UsageError: An option that cannot be meant.
        NotFound: No such repository or revision; not in the store, or no such variant there, if
            ``unaided``.
        Incomplete: It lacks files that its index names, after fetching as well.
        Busy: ``timeout`` is over, or there is no room.
        ZhcacheError: What else the daemon reported.
    """
    check_asked(chinese)
    devices = _named(device)
    given = dict(options or {})
    scheduler = given.pop("scheduler", None)
    request = ResidentRequest(
        repo=repo,
        revision=revision,
        variant=variant,
        device=devices[0],
        devices=devices if len(devices) > 1 or placement != "replicate" else [],
        placement=placement,
        options=_encoded_options(given),
        attention=attention,
        compile=compile,
        memory=None if memory is None else str(memory),
    )
    # Refused here rather than at the first call.
    Encoder().encode(scheduler, "scheduler")
    until = None if timeout is None else time.monotonic() + timeout
    with shown(sys.stderr) as show:
        tell = on_progress or show
        if unaided:
            first = Conversation(paths.socket_path(), request, on_progress=tell, until=until)
        else:
            first = _opened(request, until, tell)
    _check_several(request, first)
    opened = first.opened
    return ResidentPipeline(
        Session(paths.socket_path(), request, first),
        scheduler=scheduler,
        reader=Reader(chinese, opened.repo, opened.commit, opened.variant, chinese_keep),
    )


def _named(device: str | Sequence[str]) -> list[str]:
    devices = [device] if isinstance(device, str) else list(device)
    if not devices or not all(isinstance(one, str) for one in devices):
        raise UsageError(
            "{name}={value} cannot be meant",
            hint="it takes {allowed}",
            name="device",
            value=repr(device)[:80],
            allowed="'auto' | 'cpu' | 'cuda' | 'cuda:N' | a list of them",
        )
    return devices


def _check_several(request: ResidentRequest, first: Conversation) -> None:
    opened = first.opened
    wanted = ("replicate", "split") if request.placement == "auto" else (request.placement,)
    is_counted = opened.plan is not None or len(opened.devices) == len(request.devices)
    if opened.placement not in wanted or not is_counted:
        first.close()
        raise VersionMismatch(
            "the daemon knows nothing of several devices",
            hint="bring it to the version of this client, or name one device",
        )


def _opened(
    request: ResidentRequest, until: float | None, on_progress: Callable[[Progress], object]
) -> Conversation:
    socket = paths.socket_path()
    try:
        return Conversation(socket, request, on_progress=on_progress, until=until)
    except DaemonUnreachable:
        # The one that may be started for this user, if that is allowed; httpx is needed for it.
        from zhcache.client import Client

        with Client() as client:
            client.connect()
    except (NotFound, Incomplete):
        request = _fetched(request, until)
    try:
        return Conversation(socket, request, on_progress=on_progress, until=until)
    except (NotFound, Incomplete):
        request = _fetched(request, until)
        return Conversation(socket, request, on_progress=on_progress, until=until)


def _fetched(request: ResidentRequest, until: float | None) -> ResidentRequest:
    from zhcache.client import Client
    from zhcache.progress import display

    left = None if until is None else max(until - time.monotonic(), 0.0)
    with Client() as client, display(is_quiet=not sys.stderr.isatty()) as shown:
        revision, variant = request.revision, request.variant
        result = client.prefetch(
            request.repo,
            revision=client.settled(request.repo, revision) if variant else revision,
            variants=[variant] if variant else (),
            only_pipeline=True,
            on_progress=shown.update,
            timeout_s=left,
        )
    # By commit: the branch may have moved on since, and what was fetched is what is run.
    return msgspec.structs.replace(request, repo=result.repo, revision=result.commit)


def _encoded_options(options: dict[str, Any]) -> dict[str, Any]:
    encoder = Encoder()
    encoded = {name: encoder.encode(value, name) for name, value in options.items()}
    if encoder.bytes:
        raise UsageError(
            "{names} cannot be given to a resident pipeline",
            hint="mode='attach' takes components and tensors",
            names=", ".join(options),
        )
    return encoded


__all__ = ["ResidentPipeline", "open_resident"]
