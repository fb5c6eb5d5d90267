"""From a leased folder to a pipeline on its device: over its files, or over arenas."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhcache.errors import UsageError
from zhcache.pipeline import quantized, widened
from zhcache.pipeline.published import Published, components, has_weights, published
from zhcache.pipeline.refusals import check_complete, told

if TYPE_CHECKING:
    import torch

    from zhcache.pipeline.attach import Hand

_FILES_ONLY = ("device_map", "quantization_config")
_FOR_STOCK = frozenset(
    {
        *_FILES_ONLY,
        *("custom_pipeline", "disable_mmap", "low_cpu_mem_usage", "max_memory", "offload_folder"),
        *("offload_state_dict", "use_flashpack", "use_safetensors"),
    }
)
"""Options that say how weights are read."""


def device_of(name: str) -> torch.device:
    """Returns the torch device that ``name`` means.

    Raises:
        UsageError: It is none, or this torch cannot reach it.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            "{device} is not a device",
            hint="it takes 'auto' | 'cpu' | 'cuda' | 'cuda:N'",
            device=repr(name),
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "this torch sees no CUDA device, and {device} was asked for",
            hint="leave device out, or install the CUDA build of torch",
            device=name,
        )
    is_cuda = device.type == "cuda"
    if (device.index or 0) >= torch.cuda.device_count() if is_cuda else not _is_reached(device):
        raise UsageError(
            "there is no device {device} here",
            hint="there is: {there}",
            device=name,
            there=", ".join(["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]),
        )
    return device


def _is_reached(device: torch.device) -> bool:
    import torch

    try:
        return not torch.empty(0, device=device).is_meta
    # Each kind of device that this torch was built without says so by another of these.
    except (AssertionError, ImportError, NotImplementedError, RuntimeError):
        return False


def over_files(
    folder: Path, options: Mapping[str, Any], shared: Mapping[str, torch.nn.Module] | None = None
) -> Any:
    """Returns the pipeline on the CPU, its weights mapped from their files.

    Args:
        folder: The leased snapshot.
        options: Of ``from_pretrained``.
        shared: Components that are had already.

    Raises:
        UsageError: ``folder`` is no pipeline, or an option cannot be meant.
        IntegrityError: Its files cannot be read, or lack weights.
        NoSpace: Memory ran out.
    """
    quantized.check(folder)
    with told(folder, options.keys(), _FOR_STOCK), quantized.hushed():
        form = published(folder)
        made = dict(shared or {})
        if not options.keys() & _FOR_STOCK:
            from zhcache.pipeline import mapped

            made |= mapped.plain(folder, form, options.keys() | made.keys())
        pipeline = _pipeline(folder, form, {**options, **made})
    # With a device map, what is without content lies elsewhere until it is used.
    if options.get("device_map") is None:
        parts: dict[str, Any] = pipeline.components
        given = options.keys() | (shared or {}).keys()
        check_complete(folder, {name: parts[name] for name in parts.keys() - given})
        widened.restore(folder, pipeline, options.keys())
    return pipeline


def over_arenas(
    folder: Path,
    device: torch.device,
    options: Mapping[str, Any],
    hand: Hand,
    weights: Collection[str] | None = None,
) -> Any:
    """Returns the pipeline with its weights in the daemon's memory on ``device``.

    Args:
        folder: The leased snapshot.
        device: ``cpu`` or a CUDA device.
        options: Of ``from_pretrained``; a component among them is not asked for.
        hand: Asks the daemon.
        weights: Paths of the files with weights where ``folder`` has none of them; None: it has.

    Raises:
        UsageError: An option that only weights of one's own can have.
        IntegrityError: The arenas' content is wrong, and was so a second time; or the files
            cannot be read.
        ZhcacheError: What the daemon or the GPU's driver reported.
    """
    pipeline = over_places(
        folder, dict.fromkeys(components(folder), device), options, hand, weights, is_mapped=False
    )
    # A component of the user's own goes there; what is there already is left as it is.
    return pipeline if device.type == "cpu" else pipeline.to(device)


def over_places(
    folder: Path,
    homes: Mapping[str, torch.device],
    options: Mapping[str, Any],
    hand: Hand,
    weights: Collection[str] | None,
    *,
    is_mapped: bool,
) -> Any:
    """Returns the pipeline with each component's weights in the daemon's memory on its device.

    Args:
        folder: As ``over_arenas``.
        homes: The device of each component that has weights.
        options: As ``over_arenas``.
        hand: As ``over_arenas``.
        weights: As ``over_arenas``.
        is_mapped: What is on the CPU is mapped from its files.

    Raises:
        ZhcacheError: As ``over_arenas``.
    """
    from zhcache.pipeline import attach

    for name in _FILES_ONLY:
        if options.get(name) is not None:
            raise UsageError(
                "{name} changes weights or places, and these weights are shared and in their place",
                hint="leave it out, or load with stock from_pretrained from zhcache.path(...)",
                name=name,
            )
    quantized.check(folder)
    named = components(folder)
    weighted = _weighted(folder, named) if weights is None else _folders(weights)
    wanted: dict[torch.device, list[str]] = {}
    for name in named:
        if name not in options and name in weighted:
            wanted.setdefault(homes[name], []).append(name)
    shared: dict[str, torch.nn.Module] = {}
    with quantized.hushed():
        for device, names in wanted.items():
            if device.type != "cpu" or not is_mapped:
                shared |= attach.shared(folder, device, names, hand)
    if is_mapped:
        return over_files(folder, options, shared)
    # What has no weights has no precision either.
    with told(folder, options.keys(), _FOR_STOCK, elsewhere=weights or ()):
        pipeline = _pipeline(folder, Published({}, None), {**options, **shared})
    widened.restore(folder, pipeline, options.keys())
    return pipeline


def _weighted(folder: Path, named: Collection[str]) -> set[str]:
    return {name for name in named if has_weights(folder / name)}


def _folders(weights: Collection[str]) -> set[str]:
    """Returns the components that ``has_weights`` would name, were the files there."""
    parts = (path.split("/") for path in weights if path.endswith(".safetensors"))
    return {part[0] for part in parts if len(part) == 2}


def _pipeline(folder: Path, form: Published, options: Mapping[str, Any]) -> Any:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(
        str(folder),
        **{
            # Pickles run code when they are read.
            "use_safetensors": True,
            **options,
            "local_files_only": True,
            "variant": form.variant,
            _dtype_option(): _dtypes(form, torch),
        },
    )


def _dtypes(form: Published, torch: Any) -> Any:
    """Returns one torch dtype, or one for each component where they were published differently."""
    default = getattr(torch, form.default)
    by_component = {name: getattr(torch, dtype) for name, dtype in form.dtypes.items()}
    if set(by_component.values()) <= {default}:
        return default
    return {**by_component, "default": default}


def _dtype_option() -> str:
    """Returns what this diffusers calls the option: an unknown one would only be warned about.

    ``torch_dtype`` became ``dtype`` in 0.40.
    """
    from diffusers import __version__

    major, minor = (int(part) for part in __version__.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 40) else "torch_dtype"
