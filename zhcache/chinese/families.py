"""What diffusers' pipeline classes take, by family: the names to hand embeddings over by.

Kin of a class (img2img, inpainting, ControlNet, PAG, LCM) read texts as it does and are found by
how their names begin. A class that is not here takes texts and nothing else: its prompts can be
translated. Source: the signatures in diffusers 0.42; a test holds the table against those that are
installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Family:
    """How the pipelines of one family are given their texts.

    Attributes:
        name: What the family is called.
        begins: How its classes' names begin.
        except_: How names begin that are of another family, or of none.
        reads: ``natively``: its encoder reads Chinese. ``unmeasured``: its tokenizer covers it,
            how well it understands it was not measured. ``not``: it does not.
        embeds: Names of arguments that take embeddings, and where ``encode_prompt`` returns each.
            The negative's are called the same with ``negative_`` before.
        negative: What a missing negative prompt is: ``empty`` text, or ``none`` at all.
        windows: Which of the pipeline's tokenizers read a text, and of how many tokens each takes
            no more: a number, ``own`` (the tokenizer's ``model_max_length``) or ``call`` (the
            call's ``max_sequence_length``). Empty where it was not looked at.
        before: What the family puts before a text, and counts with it.
        is_longer: Whether it takes embeddings longer than its own encoder's.
        repeats: Whether a call for several images repeats the embeddings that it is given. The
            others repeat only what they encode themselves, and fail, or draw too few.
    """

    name: str
    begins: tuple[str, ...]
    except_: tuple[str, ...] = ()
    reads: Literal["natively", "unmeasured", "not"] = "not"
    embeds: Mapping[str, int] = field(default_factory=dict[str, int])
    negative: Literal["empty", "none"] = "empty"
    windows: Mapping[str, int | Literal["own", "call"]] = field(
        default_factory=dict[str, "int | Literal['own', 'call']"]
    )
    before: str = ""
    is_longer: bool = False
    repeats: bool = True

    @property
    def is_native(self) -> bool:
        """Whether its texts stay as they are."""
        return self.reads != "not"

    def has(self, class_name: str) -> bool:
        """Whether a pipeline class is of this family."""
        return class_name.startswith(self.begins) and not class_name.startswith(
            self.except_ or ("\0",)
        )


_POOLED = {"prompt_embeds": 0, "pooled_prompt_embeds": 2}
_MASKED = {"prompt_embeds": 0, "prompt_attention_mask": 1}
_CALL: Mapping[str, Literal["call"]] = {"tokenizer": "call"}

FAMILIES = (
    Family(
        "stable-diffusion",
        ("StableDiffusion", "LatentConsistencyModel"),
        (
            *("StableDiffusionXL", "StableDiffusion3"),
            # No prompt; pooled vectors of its own; no public encode_prompt.
            *("StableDiffusionImageVariation", "StableDiffusionLatentUpscale"),
            "StableDiffusionInstructPix2Pix",
        ),
        embeds={"prompt_embeds": 0},
        windows={"tokenizer": "own"},
        is_longer=True,
    ),
    Family(
        "sdxl",
        ("StableDiffusionXL",),
        embeds=_POOLED,
        windows={"tokenizer": "own", "tokenizer_2": "own"},
        is_longer=True,
    ),
    Family(
        "sd3",
        ("StableDiffusion3",),
        embeds=_POOLED,
        windows={"tokenizer": "own", "tokenizer_2": "own", "tokenizer_3": "call"},
        repeats=False,
    ),
    Family(
        "flux",
        ("Flux",),
        ("Flux2", "FluxPriorRedux"),
        embeds={"prompt_embeds": 0, "pooled_prompt_embeds": 1},
        negative="none",
        windows={"tokenizer": "own", "tokenizer_2": "call"},
        repeats=False,
    ),
    Family(
        "chroma",
        ("Chroma",),
        embeds={"prompt_embeds": 0, "prompt_attention_mask": 2},
        windows=_CALL,
        repeats=False,
    ),
    Family("pixart", ("PixArtAlpha", "PixArtSigma"), embeds=_MASKED, windows=_CALL),
    Family(
        "cogview3",
        ("CogView3Plus",),
        embeds={"prompt_embeds": 0},
        windows=_CALL,
        repeats=False,
    ),
    Family("kolors", ("Kolors",), reads="natively", windows=_CALL),
    Family(
        "hunyuan-dit",
        ("HunyuanDiT",),
        reads="natively",
        windows={"tokenizer": 77, "tokenizer_2": 256},
    ),
    Family("hunyuan-image", ("HunyuanImage",), reads="natively"),
    Family("cogview4", ("CogView4",), reads="natively", windows=_CALL),
    Family("glm-image", ("GlmImage",), reads="natively"),
    # Of kin that edit, pictures are among the tokens.
    Family("qwen-image-edit", ("QwenImageEdit", "QwenImageLayered"), reads="natively"),
    Family("z-image-omni", ("ZImageOmni",), reads="natively"),
    Family(
        "qwen-image",
        ("QwenImage",),
        ("QwenImageEdit", "QwenImageLayered"),
        reads="natively",
        windows=_CALL,
    ),
    Family("longcat-image", ("LongCatImage",), reads="natively"),
    Family(
        "z-image",
        ("ZImage",),
        ("ZImageOmni",),
        reads="natively",
        windows=_CALL,
        before="<|im_start|>user\n",
    ),
    Family("ovis-image", ("OvisImage",), reads="natively"),
    Family("flux2", ("Flux2",), reads="unmeasured"),
    Family("ernie-image", ("ErnieImage",), reads="unmeasured"),
    Family("sana", ("Sana",), reads="unmeasured"),
    Family("lumina", ("Lumina",), reads="unmeasured"),
    Family("auraflow", ("AuraFlow",), reads="unmeasured", windows=_CALL),
)


def family_of(class_name: str) -> Family | None:
    """Returns the family of a pipeline class of diffusers; None where it is of none known here."""
    return next((family for family in FAMILIES if family.has(class_name)), None)
