"""What quantized components need of an environment before they can be read in it. No torch."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zhcache.errors import UsageError

_PACKAGES = {
    "torchao": ("torchao", "torchao"),
    "sdnq": ("sdnq", "sdnq"),
    "gguf": ("gguf", "gguf"),
    "quanto": ("optimum-quanto", "optimum.quanto"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "modelopt": ("nvidia-modelopt", "modelopt"),
    "auto-round": ("auto-round", "auto_round"),
}
"""For each ``quant_method`` of the libraries what is installed, and what that is imported as."""

_NOISY = (
    "torchao",
    "torch.utils._pytree",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "sdnq",
)


def needs(folder: Path) -> list[str]:
    """Returns the packages that the components of the pipeline in ``folder`` are read with.

    Besides torch, diffusers and transformers; sorted, none where nothing is quantized. A method
    that is not known here needs nothing: the libraries tell what they want.
    """
    methods = {_method(config) for config in sorted(folder.glob("*/config.json"))}
    return sorted(_PACKAGES[method][0] for method in methods if method in _PACKAGES)


def check(folder: Path) -> None:
    """Refuses a pipeline that this environment lacks a package for.

    Raises:
        UsageError: It names them.
    """
    modules = dict(_PACKAGES.values())
    lacking = [package for package in needs(folder) if not _is_here(modules[package])]
    if lacking:
        raise UsageError(
            "this variant is read with {missing}, which this environment lacks",
            hint="pip install {missing}, or take another variant",
            missing=" ".join(lacking),
        )


@contextmanager
def hushed() -> Iterator[None]:
    """Inside the block torchao and sdnq do not tell, at import, which kernels they do without.

    diffusers imports torchao wherever it is installed. What is loaded here needs no such kernel.
    """
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _method(config: Path) -> str | None:
    try:
        said: Any = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    settings: Any = said.get("quantization_config") if isinstance(said, dict) else None
    method: Any = settings.get("quant_method") if isinstance(settings, dict) else None
    return method if isinstance(method, str) else None


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # The package that it is a part of.
        return False
