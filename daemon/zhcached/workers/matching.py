"""Whether published weights are those that a component's configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zhcache.errors import IntegrityError
from zhcached.workers import naming
from zhcached.workers.tensors import TensorInfo


def check(component: str, module: torch.nn.Module, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuses weights that no reader could load into the module.

    What a file has beyond the module is passed over, as readers do. What transformers makes of
    several tensors has another shape than each, and much there is tied or made at loading, so that
    of its modules only the shapes of tensors with a name of their own are compared.

    Args:
        component: Its name.
        module: Without weights.
        tensors: Of all its files, by key.

    Raises:
        IntegrityError: A tensor has another shape, or, in a module of diffusers, one is missing.
    """
    own = module.state_dict()
    names = naming.own_names(module, tensors, may_fuse=True)
    found: dict[str, list[str]] = {}
    for key, name in names.items():
        found.setdefault(name, []).append(key)
    for name, keys in found.items():
        # Mended names of old files may lay their tensors out otherwise.
        if name not in own or keys != [name]:
            continue
        shape = list(own[name].shape)
        if list(tensors[name].shape) != shape:
            raise _other(component, f"{name} is {list(tensors[name].shape)}, not {shape}")
    parameters = dict(module.named_parameters(remove_duplicate=False))
    there = {id(parameters[name]) for name in found if name in parameters}
    lacking = sorted(
        name for name in own.keys() - found.keys() if id(parameters.get(name)) not in there
    )
    if lacking and (not tensors or not naming.is_of_transformers(module)):
        raise _other(component, f"{lacking[0]} is missing, one of {len(lacking)}")


def _other(component: str, reason: str) -> IntegrityError:
    return IntegrityError(
        "the weights of {component} are not those of its configuration: {reason}",
        hint="they were published so and the store is sound: take another revision",
        component=component,
        reason=reason,
    )
