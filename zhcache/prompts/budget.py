"""How long a prompt may be: the tokens that its reader, a text encoder, takes.

A tokenizer counts exactly. Without one a prompt is estimated, on the high side: what is counted too
long loses an addition, what is counted too short loses the user's own words.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from zhcache.chinese.detect import has_han
from zhcache.errors import UsageError

if TYPE_CHECKING:
    from zhcache.client import Client

DEFAULT = "bert"
_SPECIAL = 2
_UNBOUNDED = 1_000_000
"""transformers says that a tokenizer has no limit by a number beyond all use."""
_LATIN_WORD = re.compile(r"[A-Za-z]+")
"""Without digits, of which CLIP's pattern makes a token each."""
_LETTERS_A_TOKEN = 4


class Budget(NamedTuple):
    """A limit in tokens, start and end marks included, and what counts them."""

    limit: int
    tokens: Callable[[str], int]

    def allows(self, text: str) -> bool:
        """Whether ``text`` fits."""
        return self.tokens(text) <= self.limit


class Estimate(NamedTuple):
    """What an encoder is known to take: its window, and tokens for each Chinese character."""

    limit: int
    each_han: float

    def tokens(self, text: str) -> int:
        """Returns about how many tokens ``text`` is, its two marks included."""
        words = _LATIN_WORD.findall(text)
        rest = _LATIN_WORD.sub("", text)
        han = sum(map(has_han, rest))
        others = sum(not char.isspace() for char in rest) - han
        latin = sum(math.ceil(len(word) / _LETTERS_A_TOKEN) for word in words)
        return math.ceil(han * self.each_han) + others + latin + _SPECIAL


ESTIMATES = {"clip": Estimate(77, 2.5), "bert": Estimate(77, 1.0)}
"""By name. ``clip``: Stable Diffusion 1.x and XL; its BPE was measured at 2.3 to 2.5 tokens for a
Chinese character of running text. ``bert``: Chinese encoders in its place, and HunyuanDiT's."""

Encoder = str | Path | Callable[[str], int] | Any
"""A name of ``ESTIMATES``, a tokenizer or pipeline folder, a repository of the store, a tokenizer,
or whatever returns the number of tokens of a text."""


def budget_for(
    encoder: Encoder | None = None, limit: int | None = None, client: Client | None = None
) -> Budget:
    """Returns the budget that ``encoder`` sets, of ``limit`` tokens if that is given.

    Args:
        encoder: Whose tokens; ``bert`` by default, since it counts a character as one.
        limit: Tokens, marks included; the encoder's own window by default.
        client: Asked for a repository of the store; by default one is made.

    Raises:
        UsageError: Not an encoder, or it says of no limit and none is given.
        NotFound: The repository is not in the store.
    """
    if limit is not None and limit < 1:
        raise UsageError("a budget of {limit} tokens holds nothing", limit=limit)
    if encoder is None:
        encoder = DEFAULT
    if isinstance(encoder, str | Path):
        if known := ESTIMATES.get(str(encoder)):
            return Budget(limit or known.limit, known.tokens)
        encoder = _loaded(encoder, client)
    own = getattr(encoder, "model_max_length", _UNBOUNDED)
    if limit is None and own >= _UNBOUNDED:
        raise UsageError("this encoder says of no limit", hint="give a budget in tokens as well")
    return Budget(limit or own, _counter(encoder))


def _counter(encoder: Encoder) -> Callable[[str], int]:
    if encode := getattr(encoder, "encode", None):
        # What is too long is found here on purpose; a tokenizer of transformers would warn of it.
        quiet = {"verbose": False} if hasattr(encoder, "model_max_length") else {}
        return lambda text: len(encode(text, **quiet))
    if callable(encoder):
        return cast("Callable[[str], int]", encoder)
    raise UsageError(
        "{kind} is no encoder",
        hint="give a name ({names}), a folder, OWNER/NAME, a tokenizer or a function",
        kind=type(encoder).__name__,
        names=", ".join(ESTIMATES),
    )


def _loaded(where: str | Path, client: Client | None) -> Any:
    folder = Path(where).expanduser()
    if folder.is_dir():
        return _widest(folder, str(where))
    name = str(where)
    if isinstance(where, Path) or name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise UsageError(
            "{encoder} is neither a folder nor an encoder that is known",
            hint="give a name ({names}), a folder, or OWNER/NAME",
            encoder=name,
            names=", ".join(ESTIMATES),
        )
    from zhcache.client import Client

    with contextlib.ExitStack() as held:
        asked = client or held.enter_context(Client())
        # Held while it is read: a collection may not take it meanwhile.
        lease = held.enter_context(asked.lease(name))
        return _widest(lease.path, name)


def _widest(folder: Path, name: str) -> Any:
    """Returns the tokenizer with the longest window of a pipeline's, or the one of a folder.

    Where a pipeline has several encoders, all get the whole prompt: what the longest takes is read.
    """
    parts = sorted(part for part in folder.glob("tokenizer*") if part.is_dir()) or [folder]
    return max((_tokenizer(part, name) for part in parts), key=_window)


def _window(tokenizer: Any) -> int:
    return tokenizer.model_max_length


def _tokenizer(folder: Path, name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(
            "the tokens of {encoder} cannot be counted without transformers",
            hint="pip install 'zhcache[torch]'",
            encoder=name,
        ) from error
    try:
        # Never code of the folder: left open, transformers asks for it at the terminal.
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # No narrower kind: of a damaged file, tokenizers raises a bare Exception.
        raise UsageError(
            "{encoder} holds no tokenizer that can be read: {reason}",
            hint="name the folder that has tokenizer_config.json",
            encoder=name,
            reason=str(error).partition("\n")[0],
        ) from error
