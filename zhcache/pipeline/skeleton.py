"""Builds a component's module without its weights, as its library's ``from_pretrained`` does.

What the libraries do for this, replacing functions of torch for the whole process, would reach
other threads that make tensors or modules meanwhile. Here a mode of this thread alone does it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from zhcache.errors import UsageError

META = torch.device("meta")
_UNSET = frozenset({torch.empty, torch.empty_strided, torch.empty_permuted})
_MAKERS = frozenset(
    {
        *_UNSET,
        *(torch.arange, torch.as_tensor, torch.asarray, torch.eye, torch.full, torch.logspace),
        *(torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.scalar_tensor),
        *(torch.tensor, torch.tril_indices, torch.triu_indices, torch.zeros),
    }
)
_INITIALISERS = ("torch.nn.init", "transformers.initialization")
_QUANTIZERS = ("torchao", "sdnq")
_ANSWERS: Mapping[Any, Any] = {torch.Tensor.item: 0.0, torch.Tensor.__bool__: False}


class Weightless(TorchFunctionMode):
    """In this thread, tensors are made without memory and are not initialised.

    Args:
        everything: Whether all makers of tensors are meant, as transformers does it, or only those
            that leave their tensors' content open, as parameters are made: what diffusers computes
            beside them, such as rotary tables, stays real.
    """

    def __init__(self, *, everything: bool) -> None:
        super().__init__()
        self._everything = everything
        self._makers = _MAKERS if everything else _UNSET

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Does one call of torch."""
        options = kwargs or {}
        if func in self._makers:
            if options.get("device") is None:
                options = {**options, "device": META}
        elif func is torch.linspace:
            # Drop-path rates are read off it while the module is built; transformers does so too.
            options = {"device": "cpu", **options} if self._everything else options
        elif getattr(func, "__module__", None) in _INITIALISERS:
            return args[0] if args else options["tensor"]
        elif func is torch.tensor and args == ([],):
            # So transformers asks whether modules are made without memory, to leave initialising.
            options = {"device": META, **options}
        elif func in _ANSWERS and not self._everything and args[0].device == META:
            # Initialisers look at what they drew; of a tensor without content any answer is right.
            return _ANSWERS[func]
        return func(*args, **options)


def component_class(library: str, name: str) -> type[torch.nn.Module]:
    """Returns the class that a pipeline's index names for one of its modules.

    Raises:
        UsageError: It is none of diffusers' or transformers' modules; nothing else is imported, for
            the index came over the network.
    """
    from diffusers import pipelines
    from diffusers.models.modeling_utils import ModelMixin
    from transformers import PreTrainedModel

    if library in ("diffusers", "transformers"):
        found = getattr(importlib.import_module(library), name, None)
    else:
        found = getattr(getattr(pipelines, library, None), name, None)
    if not (isinstance(found, type) and issubclass(found, (ModelMixin, PreTrainedModel))):
        raise UsageError(
            "{library}.{name} is no module whose weights can be shared in this environment",
            hint="load the pipeline with stock from_pretrained from zhcache.path(...)",
            library=library,
            name=name,
        )
    return found


def build(
    folder: Path, library: str, name: str, dtype: torch.dtype, *, real_buffers: bool = False
) -> torch.nn.Module:
    """Returns the module in ``folder``, its parameters without memory or arbitrary.

    Args:
        folder: The component's folder.
        library: As the pipeline's index names it.
        name: Name of the class.
        dtype: What ``from_pretrained`` would be asked for; its configuration tells it.
        real_buffers: Whether buffers must have their content, computed in the default dtype.

    Raises:
        UsageError: As ``component_class``.
        OSError: Its configuration cannot be read.
    """
    from diffusers.models.modeling_utils import ModelMixin

    kind = component_class(library, name)
    if issubclass(kind, ModelMixin):
        return _of_diffusers(kind, folder, dtype).eval()
    return _of_transformers(kind, folder, dtype, real_buffers).eval()


def _of_diffusers(kind: Any, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    config = kind.load_config(str(folder), local_files_only=True)
    quantizer = _quantizer(config, dtype)
    with Weightless(everything=False):
        module = kind.from_config(config)
    noted: dict[str, Any] = {"_name_or_path": str(folder)}
    if quantizer is not None:
        wide = getattr(kind, "_keep_in_fp32_modules", None) or []
        if not getattr(quantizer, "use_keep_in_fp32_modules", False):
            wide = []
        # Before the weights are in place: what it does to them was done where they were laid out.
        quantizer.preprocess_model(
            model=module,
            device_map=None,
            keep_in_fp32_modules=list(wide) if isinstance(wide, list) else [wide],
        )
        quantizer.postprocess_model(module)
        module.hf_quantizer = quantizer
        noted["_pre_quantization_dtype"] = dtype
    module.register_to_config(**noted)
    return module


def _quantizer(config: dict[str, Any], dtype: torch.dtype) -> Any:
    """Returns what makes the layers of a quantized module, as ``from_pretrained`` asks for it.

    Raises:
        UsageError: It is of a library whose modules are not shared.
        ImportError: That library is not installed.
    """
    told = config.get("quantization_config")
    if told is None:
        return None
    _check_method(told, _QUANTIZERS)
    from diffusers.quantizers import auto

    kind: Any = auto.DiffusersAutoQuantizer
    config["quantization_config"] = kind.merge_quantization_configs(told, None)
    quantizer = kind.from_config(config["quantization_config"], pre_quantized=True)
    quantizer.validate_environment(torch_dtype=dtype, device_map=None)
    quantizer.update_torch_dtype(dtype)
    return quantizer


def _check_method(told: Any, known: Collection[str]) -> None:
    method = told.get("quant_method") if isinstance(told, dict) else None
    if method not in known:
        raise UsageError(
            "weights that are quantized with {method} cannot be shared",
            hint="weight-only int8 and float8 of torchao, and sdnq, are",
            method=method,
        )


def _of_transformers(
    kind: Any, folder: Path, dtype: torch.dtype, real_buffers: bool
) -> torch.nn.Module:
    config = kind.config_class.from_pretrained(str(folder), local_files_only=True)
    config.name_or_path = str(folder)
    for part in (config, *(getattr(config, key, None) for key in config.sub_configs)):
        if part is not None:
            part.dtype = dtype
    told = getattr(config, "quantization_config", None)
    with Weightless(everything=not real_buffers):
        module = kind(config)
    if told is not None:
        # Transformers loads sdnq's layers only where sdnq was imported before, and says nothing.
        _check_method(told, ("torchao",))
        from transformers.quantizers import auto

        quantizers: Any = auto.AutoHfQuantizer
        module.hf_quantizer = quantizers.from_config(told, pre_quantized=True)
        module.is_quantized = True
        module.quantization_method = module.hf_quantizer.quantization_config.quant_method
    if module.can_generate():
        module.generation_config = _generation(folder)
    return module


def _generation(folder: Path) -> Any:
    from transformers import GenerationConfig

    read: Callable[..., Any] = GenerationConfig.from_pretrained
    if (folder / "generation_config.json").is_file():
        return read(str(folder), local_files_only=True)
    return read(
        str(folder),
        config_file_name="config.json",
        _from_model_config=True,
        local_files_only=True,
    )


def dtype_option(kind: type[torch.nn.Module]) -> str:
    """Returns what the class's ``from_pretrained`` calls the dtype; another name is ignored."""
    from diffusers.models.modeling_utils import ModelMixin

    return "torch_dtype" if issubclass(kind, ModelMixin) else "dtype"


def versions() -> dict[str, str]:
    """Returns the versions of what decides how a module's tensors are named and made."""
    import diffusers
    import transformers

    return {
        "torch": str(torch.__version__),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
