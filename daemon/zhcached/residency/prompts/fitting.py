"""Which of the held prompt models fit a model: what ``GET /v1/chinese`` answers."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import structlog

from zhcache.chinese.adapter import format as adapter
from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.names import parse_repo
from zhcache.protocol.prompts import ChineseChoices, PromptModel
from zhcached.config import ChineseConfig, EncoderConfig
from zhcached.residency.arena.contents import INDEX
from zhcached.residency.prompts.known import MARKERS, Known, config, known
from zhcached.store import listing
from zhcached.store.meant import meant, told
from zhcached.store.snapshots import IMPORTED, Manifest
from zhcached.store.store import Store

TRANSLATOR = "Helsinki-NLP/opus-mt-zh-en"
ENCODERS = (EncoderConfig("IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1"),)
"""Encoders that are known to take the place of that of Stable Diffusion 1.x."""

_FROM_CHINESE = re.compile(r"(^|[^a-z])(zh|zho|cmn|chi)[-_](en|eng)([^a-z]|$)", re.IGNORECASE)
_HIDDEN = 768
_ENCODER = re.compile(r"text_encoder(_[0-9]+)?/.*\.safetensors")

log = structlog.get_logger()


def choices(
    store: Store,
    wanted: ChineseConfig,
    repo: str,
    revision: str | None,
    variant: str | None,
    *,
    uid: int,
) -> ChineseChoices:
    """Returns what is held for a snapshot, the best of each route first, strangers' last.

    Args:
        store: Where everything is.
        wanted: What the configuration says.
        repo: The model that is to be prompted.
        revision: Of it, None for the default.
        variant: Of it, or None.
        uid: Who asks.

    Raises:
        NotFound: No such snapshot here.
        IntegrityError: Its bytes were found damaged.
        UsageError: A name is malformed.
        StoreDamaged: Index or manifest is damaged.
    """
    base = meant(store, repo, revision, variant)
    commit, _ = told(base)
    if base.derived is not None:
        # What a variant was made of has the files that adapters were trained with.
        base = meant(store, repo, commit, None)
    found = [(held, what) for held, what in _held(store) if held.repo != base.repo]
    models = [
        *_encoders(store, wanted, base, found),
        *_adapters(base, found),
        *_translators(store, wanted, found),
    ]
    strangers = {held.repo for held, _ in found if _is_strangers(held, wanted, uid)}
    for model in models:
        model.is_strangers = model.repo in strangers
    models.sort(key=lambda model: model.is_strangers)
    kind = config(store, base, INDEX).get("_class_name")
    return ChineseChoices(
        repo=base.repo,
        commit=commit,
        class_name=kind if isinstance(kind, str) else "",
        models=models,
    )


def everything(store: Store, wanted: ChineseConfig) -> ChineseChoices:
    """Returns every prompt model that is held, the best of each route first.

    Raises:
        StoreDamaged: The index is damaged.
    """
    found = list(_held(store))
    models = [
        *(_model("encoder", held) for held, what in found if what.route == "encoder"),
        *_ranked((held, what.about) for held, what in found if what.about is not None),
        *_translators(store, wanted, found),
    ]
    return ChineseChoices(repo="", commit="", class_name="", models=models)


def _is_strangers(held: Manifest, wanted: ChineseConfig, uid: int) -> bool:
    """Tells whether nobody whose word counts for this user chose a prompt model.

    An adapter states its quality itself, and every user may take one in: were the best one taken
    for all, each could have the prompts of all others read as he likes.
    """
    if held.uid in (uid, 0, os.geteuid()):
        return False
    if held.repo in (wanted.translator, *(one.repo for one in wanted.encoder)):
        return False
    is_known = held.repo in (TRANSLATOR, *(one.repo for one in ENCODERS))
    # A known name is its maker's at a hub; in a folder that is taken in it is anybody's.
    return not is_known or held.source == IMPORTED


def encoder_config(wanted: ChineseConfig, repo: str) -> EncoderConfig | None:
    """Returns what is configured, or built in, of a repository as an encoder."""
    return next((one for one in (*wanted.encoder, *ENCODERS) if one.repo == repo), None)


def _held(store: Store) -> Iterator[tuple[Manifest, Known]]:
    """Yields each repository's newest snapshot that is a prompt model and whole."""
    repos = {repo for path in MARKERS.values() for repo in listing.holding(store.catalog, path)}
    for repo in sorted(repos):
        try:
            manifest = store.resolve(parse_repo(repo), None)
            yield manifest, known(store, manifest)
        except UsageError:
            # A pipeline like most; the marker is the folder of its own text encoder.
            continue
        except ZhcacheError as error:
            # Others may do: what is wrong with this one is told to whoever asks for it.
            log.debug("prompts.left_out", repo=repo, reason=str(error))


def _encoders(
    store: Store, wanted: ChineseConfig, base: Manifest, found: Sequence[tuple[Manifest, Known]]
) -> Iterator[PromptModel]:
    here = {held.repo: held for held, what in found if what.route == "encoder"}
    is_sd1 = _is_stable_diffusion_1(store, base)
    for entry in dict.fromkeys((*wanted.encoder, *ENCODERS)):
        fits = base.repo in entry.base if entry.base else is_sd1
        if fits and entry.repo in here:
            yield _model("encoder", here.pop(entry.repo))


def _is_stable_diffusion_1(store: Store, base: Manifest) -> bool:
    """Tells whether the base has the text encoder of Stable Diffusion 1.x, and no other."""
    text = config(store, base, "text_encoder/config.json")
    unet = config(store, base, "unet/config.json")
    return (
        text.get("model_type") == "clip_text_model"
        and text.get("hidden_size") == _HIDDEN
        and unet.get("cross_attention_dim") == _HIDDEN
        and not config(store, base, "text_encoder_2/config.json")
    )


def _adapters(base: Manifest, found: Sequence[tuple[Manifest, Known]]) -> Iterator[PromptModel]:
    by_folder: dict[str, set[str]] = {}
    for file in base.files:
        if _ENCODER.fullmatch(file.path):
            by_folder.setdefault(file.path.partition("/")[0], set()).add(file.sha256)
    yield from _ranked(
        (held, what.about)
        for held, what in found
        if what.about is not None and _speaks(what.about, by_folder.values())
    )


def _ranked(adapters: Iterable[tuple[Manifest, adapter.Described]]) -> Iterator[PromptModel]:
    """Yields adapters: the best retrieval first, then the least error."""
    best = sorted(
        adapters, key=lambda one: (-one[1].quality.retrieval, one[1].quality.heldout_error)
    )
    for held, about in best:
        model = _model("adapter", held)
        model.name = held.repo.removeprefix(f"{adapter.OWNER}/")
        model.quality = {
            "heldout_error": about.quality.heldout_error,
            "retrieval": about.quality.retrieval,
            "pairs": about.quality.pairs,
        }
        model.trained_on = about.trained_on.description
        model.base = about.base.repo
        yield model


def _speaks(about: adapter.Described, encoders: Collection[set[str]]) -> bool:
    """Tells whether an adapter was trained with each of these text encoders, in one of its files.

    One of two shared is not enough: finetunes of different families share encoders.
    """
    trained = set(about.base.text_encoders)
    return bool(encoders) and all(files & trained for files in encoders)


def _translators(
    store: Store, wanted: ChineseConfig, found: Sequence[tuple[Manifest, Known]]
) -> Iterator[PromptModel]:
    first = (wanted.translator, TRANSLATOR)
    here = [held for held, what in found if what.route == "translate"]
    fitting = [held for held in here if held.repo in first or _is_from_chinese(store, held)]
    for held in sorted(fitting, key=lambda one: (_rank(first, one.repo), one.repo)):
        yield _model("translate", held)


def _rank(first: Sequence[str], repo: str) -> int:
    return first.index(repo) if repo in first else len(first)


def _is_from_chinese(store: Store, held: Manifest) -> bool:
    if _FROM_CHINESE.search(held.repo):
        return True
    said = config(store, held, "tokenizer_config.json")
    pair = f"{said.get('source_lang')}-{said.get('target_lang')}"
    return _FROM_CHINESE.fullmatch(pair) is not None


def _model(route: Literal["encoder", "adapter", "translate"], held: Manifest) -> PromptModel:
    return PromptModel(route=route, repo=held.repo, commit=held.commit, name=held.repo)


__all__ = ["ENCODERS", "TRANSLATOR", "choices", "encoder_config", "everything"]
