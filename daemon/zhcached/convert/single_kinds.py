"""What a single file holds, told by the names of its tensors and few shapes. Pure.

Source of the names: ``CHECKPOINT_KEY_NAMES`` of diffusers 0.42, ``loaders/single_file_utils.py``,
and the loaders of the programs that write such files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.names import printable
from zhcached.convert.single_header import Tensors

Way = Literal["unet", "vae", "clip", "open_clip"]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"

V_PREDICTION = "v_pred"
ZERO_SNR = "ztsnr"
"""Names of empty tensors that tell how an SDXL checkpoint was trained. Source: ComfyUI,
``comfy/supported_models.py``, ``SDXL.model_type``."""


class Piece(msgspec.Struct, frozen=True):
    """One component: the pipeline's name of it, what its keys begin with, how they are laid out."""

    component: str
    prefix: str
    way: Way


class Kind(msgspec.Struct, frozen=True):
    """A family of checkpoints.

    Attributes:
        title: For people.
        like: The repository whose configurations fit, if nobody names another.
        pieces: What the file holds.
        doubt: What the file does not tell and the user should know, or nothing.
    """

    title: str
    like: str
    pieces: tuple[Piece, ...]
    doubt: str = ""

    @property
    def text_prefixes(self) -> set[str]:
        """What the keys of its text encoders begin with."""
        return {piece.prefix for piece in self.pieces if piece not in _COMMON}


_COMMON = (Piece("unet", UNET, "unet"), Piece("vae", VAE, "vae"))
_SD2_DOUBT = (
    "whether a checkpoint of Stable Diffusion 2 predicts noise or v is not to be told from the "
    "file; this one got the scheduler of {like}, --like names another"
)


def _kind(title: str, like: str, *text: Piece, doubt: str = "") -> Kind:
    return Kind(title, like, (*_COMMON, *text), doubt.format(like=like))


_CLIP = Piece("text_encoder", "cond_stage_model.transformer.", "clip")
_OPEN_CLIP = Piece("text_encoder", "cond_stage_model.model.", "open_clip")
_CLIP_XL = Piece("text_encoder", "conditioner.embedders.0.transformer.", "clip")
_OPEN_CLIP_XL = Piece("text_encoder_2", "conditioner.embedders.1.model.", "open_clip")
_OPEN_CLIP_REFINER = Piece("text_encoder_2", "conditioner.embedders.0.model.", "open_clip")

_KINDS = {
    4: (
        _kind("Stable Diffusion 1", "stable-diffusion-v1-5/stable-diffusion-v1-5", _CLIP),
        _kind(
            "Stable Diffusion 2",
            "stabilityai/stable-diffusion-2-1",
            _OPEN_CLIP,
            doubt=_SD2_DOUBT,
        ),
        _kind(
            "Stable Diffusion XL",
            "stabilityai/stable-diffusion-xl-base-1.0",
            _CLIP_XL,
            _OPEN_CLIP_XL,
        ),
        _kind(
            "Stable Diffusion XL refiner",
            "stabilityai/stable-diffusion-xl-refiner-1.0",
            _OPEN_CLIP_REFINER,
        ),
    ),
    9: (
        _kind(
            "Stable Diffusion 1 inpainting",
            "stable-diffusion-v1-5/stable-diffusion-inpainting",
            _CLIP,
        ),
        _kind(
            "Stable Diffusion 2 inpainting",
            "stabilityai/stable-diffusion-2-inpainting",
            _OPEN_CLIP,
        ),
        _kind(
            "Stable Diffusion XL inpainting",
            "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
            _CLIP_XL,
            _OPEN_CLIP_XL,
        ),
    ),
}
"""By the channels that the U-Net takes."""

_OTHER_CHANNELS = {
    5: "Stable Diffusion that takes depth",
    7: "an upscaler of Stable Diffusion",
    8: "InstructPix2Pix",
}


def _begins(*prefixes: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(prefixes)


def _has(pattern: str) -> Callable[[str], bool]:
    found = re.compile(pattern)
    return lambda name: found.search(name) is not None


_ADAPTER = "it is loaded beside a model: pipe.load_lora_weights(FILE)"
_EMBEDDING = "it is loaded beside a model: pipe.load_textual_inversion(FILE)"
_FOLDER = "import the folder of the whole pipeline: zhcache import DIR --repo OWNER/NAME"
_PUBLISHED = "prefetch the repository in diffusers' layout: zhcache prefetch OWNER/NAME"

_NOT_TAKEN: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("a LoRA", _ADAPTER, _has(r"(^lora_|\.lora_|[._](lokr|hada)_|\.dora_scale$|\.alpha$)")),
    ("a ControlNet", _PUBLISHED, _begins("control_model.", "controlnet_", "input_hint_block.")),
    ("Flux", _PUBLISHED, _has(r"(^|\.)double_blocks\.\d+\.img_")),
    ("Stable Diffusion 3", _PUBLISHED, _has(r"(^|\.)joint_blocks\.\d+\.")),
    ("Playground 2.5", _PUBLISHED, lambda name: name == "edm_mean"),
    (
        "Stable Cascade",
        _PUBLISHED,
        _has(r"^(clip_txt_mapper|down_blocks\.\d+\.\d+\.channelwise)\."),
    ),
    ("a model that moves", _PUBLISHED, _has(r"(\.time_stack\.|\.motion_modules\.)")),
)
_VAE_ALONE = _begins(VAE, "encoder.conv_in.", "decoder.conv_in.")
_OF_DIFFUSERS = _has(r"^(down_blocks|up_blocks|mid_block|text_model|transformer_blocks)\.")
_EMBEDDINGS = frozenset({"emb_params", "clip_l", "clip_g", "string_to_param.*"})

_BESIDE = re.compile(
    r"(model_ema\.|denoiser\.|betas$|alphas_cumprod|sqrt_|log_one_minus|posterior_|logvar$"
    r"|lvlb_weights$|scale_factor$|global_step|cond_stage_model\.|conditioner\.embedders\."
    rf"|{V_PREDICTION}$|{ZERO_SNR}$)"
)
"""What is no component and known: averaged weights, tables of the noise schedule, what text
encoders have besides what is read."""


def tell(tensors: Tensors, file: str) -> Kind:
    """Returns what a file holds.

    Args:
        tensors: Its.
        file: What it is called, for errors.

    Raises:
        UsageError: It is no whole model of Stable Diffusion 1, 2 or XL; the message says what it
            seems to be.
    """
    for what, hint, is_one in _NOT_TAKEN:
        if any(map(is_one, tensors)):
            raise _other(file, what, hint)
    if tensors and _EMBEDDINGS.issuperset(tensors):
        raise _other(file, "an embedding of textual inversion", _EMBEDDING)
    if not any(name.startswith(UNET) for name in tensors):
        if any(map(_VAE_ALONE, tensors)):
            raise _other(file, "a VAE alone", _FOLDER)
        if any(map(_OF_DIFFUSERS, tensors)):
            raise _other(file, "one component in diffusers' layout", _FOLDER)
        raise _other(file, f"something unknown, its first tensor is {_first(tensors)}", _PUBLISHED)
    if CONV_IN not in tensors or len(tensors[CONV_IN].shape) != 4:
        raise _other(file, "a model of another architecture", _PUBLISHED)
    channels = tensors[CONV_IN].shape[1]
    if channels not in _KINDS:
        default = f"a U-Net that takes {channels} channels"
        raise _other(file, _OTHER_CHANNELS.get(channels, default), _PUBLISHED)
    return _by_text_encoders(tensors, file, channels)


def _by_text_encoders(tensors: Tensors, file: str, channels: int) -> Kind:
    known = {prefix for kind in _KINDS[4] for prefix in kind.text_prefixes}
    here = {prefix for prefix in known if any(name.startswith(prefix) for name in tensors)}
    kind = next((kind for kind in _KINDS[channels] if kind.text_prefixes == here), None)
    if kind is None:
        what = "a model without all of its text encoders" if here else "a U-Net, no text encoder"
        if len(here) > 1:
            what = f"text encoders that do not belong together: {', '.join(sorted(here))}"
        raise _other(file, what, _FOLDER)
    if not any(name.startswith(VAE) for name in tensors):
        raise _other(file, f"{kind.title} without a VAE", _FOLDER)
    return kind


def size_of(tensors: Tensors, piece: Piece) -> int:
    """Returns the bytes of a component's tensors in the file."""
    return sum(t.bytes for name, t in tensors.items() if name.startswith(piece.prefix))


def beside(tensors: Iterable[str], kind: Kind) -> list[str]:
    """Returns the tensors that belong to no component and are not known to be left out."""
    prefixes = tuple(piece.prefix for piece in kind.pieces)
    return sorted(n for n in tensors if not n.startswith(prefixes) and not _BESIDE.match(n))


def _first(tensors: Tensors) -> str:
    return printable(min(tensors, default="none"))


def _other(file: str, what: str, hint: str) -> UsageError:
    return UsageError(
        "{file} holds {what}; whole models of Stable Diffusion 1, 2 and XL are taken in",
        hint=hint,
        file=printable(file),
        what=what,
    )
