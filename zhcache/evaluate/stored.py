"""A model of the store that looks at pictures: pinned by its commit, leased, read without a line.

Pictures are brought to the model's size as its own preprocessor configuration says, by Pillow,
whose resizing filters before it drops pixels; a library that does not gives other features.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zhcache.client import Client
from zhcache.completeness import WEIGHTS, is_closed, shards
from zhcache.errors import IntegrityError, NoSpace, NotFound, NotPermitted, UsageError
from zhcache.lease import Lease
from zhcache.pipeline.leased import Held
from zhcache.pipeline.reading import device_of
from zhcache.pipeline.refusals import MAX_WORDS, is_no_memory

if TYPE_CHECKING:
    from PIL.Image import Image

TWO_TOWERS = ("clip", "chinese_clip", "altclip", "siglip")
"""Kinds that read texts as well."""
KINDS = (*TWO_TOWERS, "clip_vision_model", "siglip_vision_model", "dinov2")


class Stored:
    """A vision model in this process; its files stay in the store while it lives.

    Args:
        repo: ``OWNER/NAME``; what is not in the store is fetched first, with progress on a
            terminal.
        revision: Branch, tag or commit.
        device: ``auto``, ``cpu`` or ``cuda:N``.

    Attributes:
        name: ``OWNER/NAME@COMMIT``: what makes a number that it gave comparable.
        kind: Its ``model_type``.
        model: In float32.

    Raises:
        UsageError: It is no such model, or a library that it needs is not installed.
        NotPermitted: Its files are closed to this user.
        IntegrityError: Its files cannot be read, or lack weights.
        NoSpace: Memory ran out.
        ZhcacheError: What the daemon reported.
    """

    def __init__(self, repo: str, revision: str | None = None, *, device: str = "auto") -> None:
        self.device = device_of(device)
        if self.device.type not in ("cpu", "cuda"):
            raise UsageError(
                "no model looks at pictures on the device {device}",
                hint="it takes 'auto' | 'cpu' | 'cuda' | 'cuda:N'",
                device=device,
            )
        client = Client()
        try:
            lease = _leased(client, repo, revision)
        except BaseException:
            client.close()
            raise
        self._held = Held(client, lease)
        try:
            self.name = f"{lease.granted.repo}@{lease.granted.commit}"
            _check_open(lease.path, self.name)
            self.folder = lease.path
            self.kind = _kind(lease.path, self.name)
            with told(self.name):
                self.model: Any = _model(lease.path, self.kind).to(self.device)
                self._prepare: Any = _processor(lease.path)
        except BaseException:
            self._held.end()
            raise

    def close(self) -> None:
        """Ends the lease; a second call does nothing."""
        self._held.end()

    @torch.inference_mode()
    def features(self, images: Sequence[Image]) -> torch.Tensor:
        """Returns what the model says of each image, float32 of shape (images, dimensions)."""
        found = self._looked(self.pixels(images))
        projected = getattr(found, "image_embeds", None)
        return pooled(found if projected is None else projected).float().cpu()

    @torch.inference_mode()
    def layers(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """Returns each layer's patches, float32 of shape (images, patches, channels).

        What belongs to no place in the image, class and register tokens, is left out.
        """
        pixels = self.pixels(images)
        found = self._looked(pixels, output_hidden_states=True)
        config = getattr(self.model.config, "vision_config", self.model.config)
        high, wide = (side // config.patch_size for side in pixels.shape[-2:])
        patches = high * wide
        return [layer[:, -patches:].float().cpu() for layer in found.hidden_states[1:]]

    def pixels(self, images: Sequence[Image]) -> torch.Tensor:
        """Returns images as the model takes them, float32 of shape (images, 3, side, side)."""
        with told(self.name):
            return self._prepare(images=list(images), return_tensors="pt")["pixel_values"]

    def _looked(self, pixels: torch.Tensor, **options: Any) -> Any:
        with told(self.name):
            if self.kind in TWO_TOWERS:
                return self.model.get_image_features(pixels.to(self.device), **options)
            return self.model(pixels.to(self.device), **options)


def pooled(found: Any) -> torch.Tensor:
    """Returns the features in what a tower gave; some releases give the tensor itself."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def _leased(client: Client, repo: str, revision: str | None) -> Lease:
    with contextlib.suppress(NotFound):
        lease = client.lease(repo, revision=revision)
        if not _lacks_weights(lease.path):
            return lease
        lease.end()
    from zhcache.progress import display

    with display(is_quiet=not sys.stderr.isatty()) as shown:
        came = client.prefetch(
            repo, revision=revision, only_pipeline=True, on_progress=shown.update
        )
    return client.lease(came.repo, revision=came.commit)


def _lacks_weights(folder: Path) -> bool:
    """Tells whether only some of a model was fetched; of what is closed that cannot be seen."""
    if is_closed(folder):
        return False
    held = {path.name for path in folder.iterdir() if path.name.endswith(WEIGHTS)}
    return not held or not shards(folder / "model.safetensors.index.json") <= held


def _check_open(folder: Path, name: str) -> None:
    if is_closed(folder):
        # A pipeline's weights would come as arenas, which are made of its components.
        raise NotPermitted(
            "the files of {model} are closed to you, and only those of pipelines are handed over",
            hint="ask the administrator to add you to the group that may read the store, or take"
            " an extractor of your own: FILE.py:NAME",
            model=name,
        )


def _kind(folder: Path, name: str) -> str:
    try:
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
    except FileNotFoundError:
        kind = None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _unreadable(name, error) from error
    if kind not in KINDS:
        raise UsageError(
            "{model} is no model that looks at pictures: {kind}",
            hint="it takes models of these kinds: {known}",
            model=name,
            kind=repr(kind),
            known=", ".join(KINDS),
        )
    return kind


def _model(folder: Path, kind: str) -> Any:
    from transformers import AutoModel, CLIPVisionModelWithProjection

    # AutoModel has the tower alone, whose features are not those that texts are compared with.
    chosen: Any = CLIPVisionModelWithProjection if kind == "clip_vision_model" else AutoModel
    with hushed():
        model, found = chosen.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if found["missing_keys"]:
        raise ValueError(f"no weights for {', '.join(sorted(found['missing_keys'])[:5])}")
    return model.eval()


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    # One backend wherever it runs: the other one, torchvision's, rounds differently.
    with hushed():
        return AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keeps transformers from telling about weights of the other tower, and from drawing bars."""
    from transformers.utils import logging

    before, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if has_bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Makes errors of zhcache of whatever the libraries raise about a model.

    Raises:
        UsageError: A library is not installed.
        NoSpace: Memory ran out.
        IntegrityError: Anything else.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(
            "{model} needs what this environment lacks: {reason}",
            hint="install the library that it names, or take another model",
            model=name,
            reason=str(error).strip()[:MAX_WORDS],
        ) from error
    except Exception as error:
        if is_no_memory(error):
            raise NoSpace(
                "there is no memory left for {model}: {reason}",
                hint="zhcache stop lets models go; --device cpu takes none of a GPU",
                model=name,
                reason=str(error).strip()[:MAX_WORDS],
            ) from error
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> IntegrityError:
    return IntegrityError(
        "{model} cannot be used: {kind}: {reason}",
        hint="`zhcache verify REPO` checks its files; where it finds nothing they were published"
        " so: take another revision or model",
        model=name,
        kind=type(error).__name__,
        reason=str(error).strip()[:MAX_WORDS] or "?",
    )
