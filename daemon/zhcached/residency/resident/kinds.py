"""What a resident worker is to be: parsed once from a client's request, compared by value.

Two clients whose requests make the same ``Kind`` share one worker. Options come from a client and
reach ``from_pretrained`` in a worker, so that what names files, hubs, code or precision is refused
here, before anything is launched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol import version
from zhcache.protocol.residency import Placement, ResidentRequest, Role
from zhcached.store.snapshots import Manifest

MAX_OPTIONS = 32 * 2**10
"""Bytes of all options as JSON."""

MAX_REPLICAS = 64
"""Workers of one resident pipeline."""

MAX_DEPTH = 8
"""Lists and tables inside each other."""

_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_BACKEND = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MEMORY = re.compile(r"auto|low|[1-9][0-9]{0,17}")
_PRECISION = {"torch_dtype", "dtype", "quantization_config", "low_cpu_mem_usage"}
_PLACE = {"device", "device_map", "max_memory", "offload_folder", "offload_state_dict",
          "offload_buffers"}  # fmt: skip
_HUB = {"cache_dir", "force_download", "resume_download", "proxies", "token", "use_auth_token",
        "local_files_only", "local_dir", "mirror", "revision", "variant", "user_agent",
        "pretrained_model_name_or_path", "subfolder"}  # fmt: skip
_CODE = {"trust_remote_code", "custom_pipeline", "custom_revision", "use_safetensors", "from_flax",
         "use_onnx", "provider", "sess_options", "disable_mmap", "use_flashpack",
         "output_loading_info", "return_unused_kwargs", "load_connected_pipeline"}  # fmt: skip
# What these tags stand for needs memory beside the frame, and a request has none.
_NO_TAGS = {"image", "tensor", "generator"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What one worker holds. ``options`` are JSON with sorted keys: equal ones are equal.

    ``commit`` is the snapshot's own; a variant is known by its name and ``made_of``. ``sharing``
    are the devices that make one image together, or that a plan may use (``placement`` says which);
    ``device`` is the first of them; empty is one alone.
    """

    repo: str
    commit: str
    device: str
    variant: str | None = None
    made_of: str | None = None
    options: bytes = b"{}"
    attention: str | None = None
    compile: bool = False
    memory: str | None = None
    role: Role = "pipeline"
    sharing: tuple[str, ...] = ()
    placement: Placement = "replicate"

    @property
    def is_planned(self) -> bool:
        """Whether a plan says on which of its devices what lies."""
        return self.placement in ("split", "offload")

    @property
    def devices(self) -> list[str]:
        """Each device that it takes something of, or may, once."""
        return sorted({self.device, *self.sharing})

    @property
    def is_prompts(self) -> bool:
        """Whether it reads prompts for others."""
        return self.role == "prompts"

    def decoded_options(self) -> dict[str, Any]:
        """Returns the options as a ``Load`` carries them."""
        return msgspec.json.decode(self.options)

    def __str__(self) -> str:
        variant = f" ({self.variant or self.role})" if self.variant or self.is_prompts else ""
        return f"{self.repo}{variant} on {' and '.join(self.sharing or [self.device])}"


def kind_of(request: ResidentRequest, manifest: Manifest, device: str) -> Kind:
    """Returns what ``request`` asks for, with its snapshot and device resolved.

    Raises:
        UsageError: An option, attention backend or memory that cannot be meant.
    """
    if request.memory is not None and not _MEMORY.fullmatch(request.memory):
        raise UsageError(
            "{name}={value} cannot be meant",
            hint="it takes {allowed}",
            name="memory",
            value=repr(request.memory[:80]),
            allowed="'auto' | 'low' | bytes",
        )
    if request.attention is not None and not _BACKEND.fullmatch(request.attention):
        raise UsageError(
            "{name} is no attention backend",
            hint="it takes a name that diffusers' set_attention_backend knows, such as native",
            name=repr(request.attention[:80]),
        )
    return Kind(
        repo=request.repo,
        commit=manifest.commit,
        device=device,
        variant=None if manifest.derived is None else manifest.derived.variant,
        made_of=None if manifest.derived is None else manifest.derived.of,
        options=encoded(request.options),
        attention=request.attention,
        compile=request.compile,
        memory=request.memory,
    )


def replicas_of(
    request: ResidentRequest, manifest: Manifest, resolve: Callable[[str], str]
) -> tuple[Kind, ...]:
    """Returns what each worker is to be where ``request`` asks for several; equal ones are equal.

    Raises:
        UsageError: They could not make equal images, or it cannot be meant.
    """
    if "auto" in request.devices or len(request.devices) > MAX_REPLICAS:
        raise UsageError(
            "{devices} are no devices to have a worker on each",
            hint="name up to {limit} of them: cuda:0 cuda:1, or cpu cpu",
            devices=repr(request.devices)[:80],
            limit=MAX_REPLICAS,
        )
    devices = sorted(resolve(device) for device in request.devices)
    if len({device == "cpu" for device in devices}) > 1:
        raise UsageError(
            "a CPU and a GPU make images that differ in their last bits",
            hint="name devices of one kind: cuda:0 cuda:1, or cpu cpu",
        )
    if len(devices) > 1 and request.memory not in (None, "low"):
        raise UsageError(
            "memory={memory} is not taken with several devices: what each has free differs",
            hint="take memory='low', or leave it out",
            memory=repr(request.memory)[:80],
        )
    kind = kind_of(request, manifest, devices[0])
    return tuple(replace(kind, device=device) for device in devices)


def together_of(
    request: ResidentRequest, manifest: Manifest, resolve: Callable[[str], str]
) -> Kind:
    """Returns what the worker is to be whose devices make one image together.

    Raises:
        UsageError: They cannot, or it cannot be meant.
    """
    devices = request.devices
    if "auto" in devices or not 2 <= len(devices) <= MAX_REPLICAS:
        raise UsageError(
            "{devices} are no devices to share an image among",
            hint="name 2 to {limit} of them: cuda:0 cuda:1, or cpu cpu",
            devices=repr(devices)[:80],
            limit=MAX_REPLICAS,
        )
    named = tuple(sorted(resolve(device) for device in devices))
    gpus = [device for device in named if device != "cpu"]
    if gpus and len(set(gpus)) != len(named):
        raise UsageError(
            "{devices} cannot share an image: that takes different GPUs, or the CPU alone",
            hint="name each GPU once: cuda:0 cuda:1; or cpu cpu",
            devices=", ".join(named),
        )
    if request.memory is not None:
        raise UsageError(
            "memory and placement='parallel' exclude each other",
            hint="leave memory out: weights that come and go would hold up the other devices",
        )
    return replace(kind_of(request, manifest, named[0]), sharing=named, placement="parallel")


def planned_of(
    request: ResidentRequest, manifest: Manifest, devices: Sequence[str], placement: Placement
) -> Kind:
    """Returns what the worker is to be whose components a plan puts on some of ``devices``.

    Raises:
        UsageError: It cannot be meant.
    """
    if len(devices) > MAX_REPLICAS:
        raise UsageError("more than {most} devices cannot be meant", most=MAX_REPLICAS)
    if request.memory is not None:
        raise UsageError(
            "memory and placement={placement} exclude each other: a plan reckons with what is free",
            hint="leave memory out, or name one device and no placement",
            placement=repr(placement),
        )
    once = tuple(sorted(set(devices)))
    return replace(kind_of(request, manifest, once[0]), sharing=once, placement=placement)


def check_version(request: ResidentRequest) -> None:
    """Refuses a client whose messages this daemon would misread.

    Raises:
        VersionMismatch: It speaks another protocol.
    """
    version.check(str(request.protocol))


def encoded(options: dict[str, Any]) -> bytes:
    """Returns options as JSON that is equal where they are.

    Raises:
        UsageError: One cannot be meant.
    """
    for name in options:
        _check_name(name)
    _check_depth(options, MAX_DEPTH)
    try:
        encoded = msgspec.json.encode(options, order="sorted")
    except (msgspec.MsgspecError, RecursionError) as error:  # pragma: no cover - depth is checked
        raise UsageError("the options are malformed: {reason}", reason=error) from error
    if len(encoded) > MAX_OPTIONS:
        raise UsageError(
            "the options have {size} bytes, the limit is {limit}",
            hint="pass images and tensors to the call, not to load_pipeline",
            size=len(encoded),
            limit=MAX_OPTIONS,
        )
    return encoded


def _check_name(name: str) -> None:
    if not _KEY.fullmatch(name):
        raise UsageError("{name} is no option of a pipeline", name=repr(name[:80]))
    if name in _PRECISION:
        raise UsageError(
            "{name} is not taken here: a cast would copy weights that are shared",
            hint='leave it out for the published precision, or take variant="fp16" or another',
            name=name,
        )
    if name in _PLACE:
        raise UsageError(
            "{name} is not taken by a resident pipeline",
            hint="device= says where it runs",
            name=name,
        )
    if name in _HUB:
        raise UsageError(
            "{name} means nothing here: the daemon fetches",
            hint="configure sources and their tokens in config.toml",
            name=name,
        )
    if name in _CODE:
        raise UsageError(
            "{name} is not taken by a resident pipeline, which runs for several users",
            hint='mode="attach" loads in your own process',
            name=name,
        )


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise UsageError("the options are nested more than {limit} deep", limit=MAX_DEPTH)
    if isinstance(value, dict):
        if value.get("$") in _NO_TAGS:
            raise UsageError(
                "an option cannot be a {tag}",
                hint='pass it to the call, or use mode="attach"',
                tag=value["$"],
            )
        for part in value.values():
            _check_depth(part, left - 1)
    elif isinstance(value, list):
        for part in value:
            _check_depth(part, left - 1)
