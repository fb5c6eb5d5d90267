"""The reader's language. English is the source text, Chinese the catalogue.

``translate`` is called where a text is shown, never where it is made: what goes over the wire or
into ``--json`` stays English. ``mark`` only tells the extraction that a text will be translated
later. click's own words come from the same catalogue, since it asks gettext's current domain.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Mapping
from pathlib import Path

from zhcache.errors import ZhcacheError, fill

DOMAIN = "zhcache"
LOCALES = Path(__file__).resolve().parent.parent / "locale"
LANGUAGES = ("en", "zh")
_CATALOGUE = {"zh": "zh_CN"}

_chosen: list[str] = []


def language_of(environ: Mapping[str, str]) -> str:
    """Returns ``"zh"`` or ``"en"`` as the environment asks for.

    Source: gettext's manual, "Locale Environment Variables"; ``LANGUAGE`` is ignored in the C
    locale.
    """
    locale = next((environ[k] for k in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(k)), "")
    if locale in ("C", "POSIX"):
        return "en"
    first = environ.get("LANGUAGE", "").partition(":")[0] or locale
    return "zh" if first.lower().startswith("zh") else "en"


def use(language: str) -> None:
    """Sets the language of this process's texts, click's included."""
    _chosen[:] = [language]
    gettext.bindtextdomain(DOMAIN, str(LOCALES))
    gettext.textdomain(DOMAIN if language in _CATALOGUE else "messages")
    # gettext() reads the environment at each call; there is no other way to tell it.
    os.environ["LANGUAGE"] = _CATALOGUE.get(language, "en")


def language() -> str:
    """Returns the language in use: the one set, else the environment's."""
    return _chosen[0] if _chosen else language_of(os.environ)


def translate(text: str, /, **values: object) -> str:
    """Returns ``text`` in the reader's language with its ``{name}`` fields filled in."""
    catalogue = _CATALOGUE.get(language())
    if catalogue is not None and text:
        known = gettext.translation(DOMAIN, str(LOCALES), [catalogue], fallback=True)
        text = known.gettext(text)
    return fill(text, values)


def mark(text: str) -> str:
    """Returns ``text`` as it is; says that it is in the catalogue and translated when shown."""
    return text


def message_of(error: ZhcacheError) -> str:
    """Returns an error's message in the reader's language."""
    return translate(error.template, **error.values)


def hint_of(error: ZhcacheError) -> str:
    """Returns an error's next step in the reader's language."""
    return translate(error.hint_template, **error.values)
