"""Messages about Chinese prompts: which models held here can read them for a base model."""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.base import Message


class PromptModel(Message):
    """A model in the store that makes Chinese prompts readable for a base model.

    ``repo`` and ``commit`` are what a ``ResidentRequest`` with the role ``prompts`` names; ``name``
    is what people call it. ``base``, ``quality`` and ``trained_on`` are an adapter's own words
    about itself. ``is_strangers``: another user took it in, and nobody who runs this machine named
    it. Whoever wants it may name it; of itself nothing takes it.
    """

    route: Literal["encoder", "adapter", "translate"]
    repo: str
    commit: str
    name: str
    quality: dict[str, float] = {}
    trained_on: str = ""
    base: str = ""
    is_strangers: bool = False


class OwnRead(Message):
    """What a pipeline's own text encoder made of a text, where that is not all of it in one piece.

    ``place`` is in the list that ``argument`` was given, 0 where it was given one text. ``kept`` is
    how many of its characters were read; None is all. ``missing`` is of the negative that was not
    given and that somebody else's encoder was to read as an empty one: the model has ``zeros`` in
    its place, or takes ``nothing`` of the kind.
    """

    argument: str
    place: int = 0
    chunks: int = 1
    kept: int | None = None
    missing: Literal["", "zeros", "nothing"] = ""


class ChineseChoices(Message):
    """``GET /v1/chinese``: what is held for a snapshot, the best of each route first.

    Without a snapshot all that is held, and ``repo``, ``commit`` and ``class_name`` are empty.
    """

    repo: str
    commit: str
    class_name: str
    models: list[PromptModel]
    schema: int = 1
