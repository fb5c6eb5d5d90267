"""Which route Chinese texts take, of those that are there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zhcache.chinese.families import Family
from zhcache.errors import NotFound, UsageError
from zhcache.protocol.prompts import ChineseChoices, PromptModel

ALLOWED = "'auto' | None | 'native' | 'encoder' | 'adapter:NAME' | 'translate'"

# As `zhcache prefetch` takes them. Both are published in pickle alone; of the first the rest is for
# other frameworks, of the second only the encoder is needed.
TRANSLATOR = "Helsinki-NLP/opus-mt-zh-en --allow-pickle --only-pipeline"
ENCODER = (
    "IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1 --allow-pickle"
    " --include text_encoder/ --include tokenizer/"
)

_ADAPTER = "adapter:"

_FOR_TEXT = (
    "`zhcache prefetch {translator}` has prompts translated; chinese=None sends them to that"
    " encoder as they are"
)
_FOR_EMBEDDINGS = (
    "`zhcache prefetch {translator}` has prompts translated, `zhcache adapter train` makes an"
    " adapter that reads them; chinese=None sends them to that encoder as they are"
)
_FOR_STABLE_DIFFUSION = (
    "`zhcache prefetch {translator}` has prompts translated, `zhcache prefetch {encoder}` reads"
    " them for Stable Diffusion 1.x, `zhcache adapter train` makes an adapter that does;"
    " chinese=None sends them to that encoder as they are"
)


@dataclass(frozen=True)
class Route:
    """What is done with Chinese texts: by which model, where it takes one."""

    kind: Literal["native", "encoder", "adapter", "translate"]
    model: PromptModel | None = None
    is_measured: bool = True

    @property
    def injects(self) -> bool:
        """Whether the pipeline is given embeddings in place of texts."""
        return self.kind in ("encoder", "adapter")


def check_asked(asked: object) -> None:
    """Checks what was given as ``chinese=``.

    Raises:
        UsageError: It cannot be meant.
    """
    if asked is None or asked in ("auto", "native", "encoder", "translate"):
        return
    if isinstance(asked, str) and asked.startswith(_ADAPTER) and asked != _ADAPTER:
        return
    raise UsageError(
        "{name}={value} cannot be meant",
        hint="it takes {allowed}",
        name="chinese",
        value=repr(asked)[:80],
        allowed=ALLOWED,
    )


def is_settled(asked: str, family: Family | None) -> Route | None:
    """Returns the route where it takes no model, so that nobody has to be asked.

    Raises:
        UsageError: ``native`` is asked of what reads no Chinese.
    """
    if asked not in ("auto", "native"):
        return None
    if family is not None and family.is_native:
        return Route("native", is_measured=family.reads == "natively")
    if asked == "native":
        raise UsageError(
            "chinese='native': this pipeline's text encoder is not known to read Chinese",
            hint="leave chinese out, or send texts as they are with chinese=None",
        )
    return None


def choose(asked: str, family: Family | None, choices: ChineseChoices) -> Route:
    """Returns the route that Chinese texts take.

    Args:
        asked: As ``load_pipeline`` takes it; ``auto`` takes the first that is there of a native
            encoder, a Chinese encoder, an adapter, a translator. It takes no stranger's.
        family: Of the pipeline's class.
        choices: What is held for the pipeline, the best of each route first.

    Raises:
        UsageError: The pipeline cannot be prompted that way.
        NotFound: Nothing is there for it; the error names what could be.
    """
    settled = is_settled(asked, family)
    if settled is not None:
        return settled
    if asked not in ("auto", "translate"):
        _check_injects(asked, family, choices)
    # Only what the class can be handed is a choice.
    can_inject = family is not None and bool(family.embeds)
    fit = [one for one in choices.models if one.route == "translate" or can_inject]
    for kind in ("encoder", "adapter", "translate"):
        here = [one for one in fit if one.route == kind]
        ours = [one for one in here if not one.is_strangers]
        if asked == "auto" and ours:
            return Route(kind, ours[0])
        if asked.partition(":")[0] == kind:
            return Route(kind, _named(asked, here, choices))
    if strangers := [one for one in fit if one.is_strangers]:
        raise NotFound(
            "what reads Chinese for {repo} here was taken in by another user",
            hint="name it if you trust it: chinese={ways}; or take one in yourself",
            repo=choices.repo,
            ways=" | ".join(dict.fromkeys(repr(_asked_for(one)) for one in strangers)),
        )
    raise NotFound(
        "nothing in the store reads Chinese for {repo}, whose own text encoder does not",
        hint=_FOR_STABLE_DIFFUSION
        if family is not None and family.name == "stable-diffusion"
        else _FOR_EMBEDDINGS
        if can_inject
        else _FOR_TEXT,
        repo=choices.repo,
        translator=TRANSLATOR,
        encoder=ENCODER,
    )


def _asked_for(model: PromptModel) -> str:
    return f"{_ADAPTER}{model.name}" if model.route == "adapter" else model.route


def _named(asked: str, here: Sequence[PromptModel], choices: ChineseChoices) -> PromptModel:
    if asked == "translate" and not here:
        raise NotFound(
            "chinese='translate': there is no translator in the store",
            hint="zhcache prefetch {translator}",
            translator=TRANSLATOR,
        )
    if asked == "encoder" and not here:
        raise NotFound(
            "chinese='encoder': there is no Chinese encoder for {repo} in the store",
            hint="`zhcache prefetch {encoder}` for the family of Stable Diffusion 1.x; others by"
            " [[chinese.encoder]] in config.toml",
            repo=choices.repo,
            encoder=ENCODER,
        )
    if not asked.startswith(_ADAPTER):
        return here[0]
    name = asked.removeprefix(_ADAPTER)
    whole = name if "/" in name else f"adapters/{name}"
    # The repository first: what an adapter calls itself is its maker's word.
    for match in (whole, name):
        for one in here:
            if match in (one.repo, one.name):
                return one
    raise NotFound(
        "chinese='adapter:{name}': there is no such adapter for {repo} in the store",
        hint="there is: {there}; `zhcache adapter train` makes one",
        name=name,
        repo=choices.repo,
        there=", ".join(one.repo for one in here) or "none",
    )


def _check_injects(asked: str, family: Family | None, choices: ChineseChoices) -> None:
    if family is None or not family.embeds:
        raise UsageError(
            "chinese={asked}: {kind} is not known to take embeddings of a Chinese encoder's",
            hint="chinese='translate' serves every pipeline",
            asked=repr(asked),
            kind=choices.class_name,
        )
