"""What became of a call's texts: ``pipe.chinese_report``."""

from __future__ import annotations

from dataclasses import dataclass

from zhcache.i18n import mark

NOT_READ = mark("the prompt is too long for what reads it; not read: {cut}")
NO_CHINESE = mark(
    "{prompt} has kana or hangul and is not taken for Chinese: it goes to the pipeline's own text"
    " encoder as it is, which is not known to read it"
)
UNREAD = "unread"


class ChineseWarning(UserWarning):
    """A prompt, or a part of one, was not read."""


@dataclass(frozen=True)
class TextReport:
    """What became of one text.

    Attributes:
        argument: ``prompt``, ``negative_prompt`` and so on.
        text: As it was given; empty where a missing one stood for an empty one.
        route: ``plain`` (the pipeline's own encoder), ``native``, ``unmeasured`` (native as well,
            but nobody measured how well it reads), ``encoder``, ``adapter`` or ``translate``.
            ``unread``: Japanese or Korean, sent as it is to an encoder that is not known to read
            it. ``zeros``: no encoder read the missing negative, the model has zeros in its place.
        used: The text that was encoded, or the model and commit that encoded it.
        chunks: In how many pieces it was encoded.
        cut: The end of it, which was not read; of a translation the end of that.
    """

    argument: str
    text: str
    route: str
    used: str
    chunks: int = 1
    cut: str = ""

    def __str__(self) -> str:
        pieces = f", {self.chunks} pieces" if self.chunks > 1 else ""
        cut = f"; not read: {self.cut!r}" if self.cut else ""
        return f"{self.argument} {self.text!r}: {self.route}{pieces}, {self.used!r}{cut}"


@dataclass(frozen=True)
class ChineseReport:
    """What became of the texts of the last call.

    Nothing where none of them was Chinese and all were read whole, or where the call failed before
    they were read.
    """

    texts: tuple[TextReport, ...] = ()

    @property
    def cut(self) -> tuple[str, ...]:
        """The ends of texts that were not read."""
        return tuple(one.cut for one in self.texts if one.cut)

    def __str__(self) -> str:
        return "\n".join(map(str, self.texts)) or "no Chinese text in the last call"
