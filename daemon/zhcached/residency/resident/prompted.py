"""What a worker is to be that reads prompts for others: parsed as ``kinds`` does for pipelines."""

from __future__ import annotations

from zhcache.errors import UsageError
from zhcache.protocol.residency import ResidentRequest
from zhcached.config import ChineseConfig
from zhcached.residency.devices import CPU
from zhcached.residency.prompts.fitting import encoder_config
from zhcached.residency.prompts.known import known
from zhcached.residency.resident.kinds import Kind, encoded
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store


def meaningless(name: str) -> UsageError:
    """Returns the error about what is asked of a prompt model and only pipelines have."""
    return UsageError(
        "{name} means nothing to what reads prompts",
        hint="leave it out: it runs on the CPU, as it was published",
        name=name,
    )


def kind_of(
    request: ResidentRequest, manifest: Manifest, store: Store, chinese: ChineseConfig
) -> Kind:
    """Returns what a request with the role ``prompts`` asks for.

    Raises:
        UsageError: It names what only pipelines have, or the snapshot is no prompt model.
        Incomplete: The snapshot lacks files.
        IntegrityError: It does not say what it is.
        StoreDamaged: A file cannot be read from the store.
    """
    said = {
        "variant": request.variant,
        "options": request.options or None,
        "attention": request.attention,
        "compile": request.compile or None,
        "memory": request.memory,
        "device": None if request.device in ("auto", CPU) else request.device,
    }
    for name, value in said.items():
        if value is not None:
            raise meaningless(name)
    # Refused before a worker is launched for it.
    known(store, manifest)
    entry = encoder_config(chinese, manifest.repo)
    is_simplified = entry is not None and entry.simplified
    return Kind(
        repo=manifest.repo,
        commit=manifest.commit,
        device=CPU,
        options=encoded({"simplified": True} if is_simplified else {}),
        role="prompts",
    )
