"""The teacher: a base model's own text encoders, asked through the pipeline's public names.

Only the text side is read; of the denoiser and the autoencoder not a byte is. Imports torch.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import torch

from zhcache.chinese.adapter.format import Argument, Base
from zhcache.chinese.families import Family, family_of
from zhcache.client import Client
from zhcache.errors import IntegrityError, NotFound, UsageError
from zhcache.lease import Lease

_TEXT = ("text_encoder", "tokenizer")
_BATCH = 32
CACHE_BYTES = 1024**3


class Teacher:
    """A base model's text side.

    Attributes:
        about: Which model it is.
        arguments: What its encoders give, by the call's arguments.

    Args:
        pipeline: With its text encoders and tokenizers, and nothing else.
        family: How it is asked.
        about: Which model it is.
        cache_bytes: Host memory for states that may be asked for again.
    """

    def __init__(
        self, pipeline: Any, family: Family, about: Base, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.about = about
        self._pipeline = pipeline
        self._family = family
        self._known: dict[str, dict[str, torch.Tensor]] = {}
        self._room = cache_bytes
        self.arguments = {
            name: _argument(name, states[0]) for name, states in self._encode([""]).items()
        }

    @property
    def mask(self) -> str | None:
        """The argument that says which positions count; None: all do."""
        masks = (name for name, argument in self.arguments.items() if argument.kind == "mask")
        return next(masks, None)

    def states(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Returns for each argument ``(texts, length, dim)`` float32, on the encoders' device.

        Pooled vectors have length 1, masks dim 1.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        fresh: dict[str, dict[str, torch.Tensor]] = {}
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            found = self._encode(part)
            for row, text in enumerate(part):
                fresh[text] = {name: states[row] for name, states in found.items()}
        for text, states in fresh.items():
            self._keep(text, states)
        rows = [fresh.get(text) or self._known[text] for text in texts]
        device = self._pipeline.device
        return {
            name: torch.stack(
                [row[name].to(device).view(argument.length, argument.dim) for row in rows]
            )
            for name, argument in self.arguments.items()
        }

    def _keep(self, text: str, states: dict[str, torch.Tensor]) -> None:
        # One text's states, not the batch that they are a view of.
        wanted = sum(one.nbytes for one in states.values())
        if wanted <= self._room:
            self._room -= wanted
            self._known[text] = {name: one.cpu().clone() for name, one in states.items()}

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Returns what ``encode_prompt`` gives, in float32."""
        takes = inspect.signature(self._pipeline.encode_prompt).parameters
        asked = {
            "prompt": list(texts),
            "prompt_2": None,
            "prompt_3": None,
            "device": self._pipeline.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
        }
        found = self._pipeline.encode_prompt(
            **{name: value for name, value in asked.items() if name in takes}
        )
        return {name: found[place].float() for name, place in self._family.embeds.items()}


def open_teacher(client: Client, repo: str, revision: str | None, device: torch.device) -> Teacher:
    """Returns the teacher that a model in the store is; it stays leased while the teacher lives.

    Raises:
        NotFound: It is not in the store.
        UsageError: It is no pipeline, or of a class that takes no embeddings.
        IntegrityError: It lacks text encoders.
        ZhcacheError: What the daemon reported.
    """
    from zhcache.pipeline.load import load_pipeline

    try:
        lease = client.lease(repo, revision=revision)
    except NotFound as error:
        raise NotFound(
            "{repo} is not in the store: {reason}",
            hint="zhcache prefetch {repo}",
            repo=repo,
            reason=error.message,
        ) from error
    with lease:
        index = _index(lease, repo)
        family = _family(str(index.get("_class_name")), repo)
        shown = client.show(repo, revision=lease.granted.commit)
        encoders = sorted(
            file.sha256
            for file in shown.files
            if file.path.startswith(_TEXT[0]) and file.path.endswith(".safetensors")
        )
        if not encoders:
            raise IntegrityError("{repo} has no text encoder in safetensors", repo=repo)
        options: dict[str, Any] = {"device": str(device), "chinese": None}
        options |= _without_the_rest(index)
        pipeline: Any = load_pipeline(repo, revision=lease.granted.commit, **options)
    if device.type == "cpu" and pipeline.dtype == torch.float16:
        # Few kernels there are for it, and what they give is rounded at each step.
        pipeline.to(torch.float32)
    about = Base(
        repo=repo,
        commit=lease.granted.commit,
        class_name=str(index["_class_name"]),
        text_encoders=encoders,
    )
    return Teacher(pipeline, family, about)


def _index(lease: Lease, repo: str) -> dict[str, Any]:
    try:
        found = json.loads((lease.path / "model_index.json").read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            "{repo} is no pipeline", hint="an adapter is trained for a pipeline", repo=repo
        )
    return found


def _family(class_name: str, repo: str) -> Family:
    family = family_of(class_name)
    if family is None or not family.embeds:
        raise UsageError(
            "{repo} is a {kind}, which takes no adapter",
            hint="its encoder reads Chinese, or takes texts alone: translate",
            repo=repo,
            kind=class_name,
        )
    return family


def _without_the_rest(index: dict[str, Any]) -> dict[str, None]:
    """Returns the options of ``load_pipeline`` that leave out what is not of the text side."""
    return {
        name: None
        for name, value in index.items()
        if isinstance(value, list) and not name.startswith(_TEXT)
    }


def _argument(name: str, states: torch.Tensor) -> Argument:
    """Returns the form of one text's ``states``."""
    if name.endswith("_mask"):
        return Argument(length=len(states), dim=1, kind="mask")
    if states.dim() == 1:
        return Argument(length=1, dim=len(states), kind="pooled")
    return Argument(length=states.shape[0], dim=states.shape[1])
