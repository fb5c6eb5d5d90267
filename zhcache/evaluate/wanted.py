"""Which measures there are, what each needs, and which of them a comparison takes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from zhcache.errors import UsageError

OF_PAIRS = ("psnr", "ssim", "distance", "score")
OF_SETS = ("cmmd", "kid", "fid")
METRICS = (*OF_PAIRS, *OF_SETS)
_BY_EXTRACTOR = ("distance", *OF_SETS)


def chosen(
    metrics: Sequence[str] | None,
    *,
    has_extractor: bool,
    has_judges: bool,
    has_layers: bool = True,
) -> tuple[str, ...]:
    """Returns what is measured: what is asked for, else what is possible and means something.

    Args:
        metrics: What is asked for.
        has_extractor: Whether there is one.
        has_judges: Whether there are some.
        has_layers: Whether the extractor is known to give feature maps as well.

    Raises:
        UsageError: A metric is unknown, or lacks what it needs, or something is given for nothing.
    """
    if metrics is None:
        return (
            *("psnr", "ssim"),
            *(("distance",) if has_extractor and has_layers else ()),
            *(("cmmd", "kid") if has_extractor else ()),
            *(("score",) if has_judges else ()),
        )
    asked = tuple(dict.fromkeys((*metrics, *(("score",) if has_judges else ()))))
    unknown = [metric for metric in asked if metric not in METRICS]
    if unknown or not asked:
        raise UsageError(
            "{metric} is no metric",
            hint="it takes {known}",
            metric=repr(unknown[0] if unknown else ""),
            known=", ".join(METRICS),
        )
    if "score" in asked and not has_judges:
        raise UsageError(
            "scores need a judge",
            hint="--judge OWNER/NAME: a CLIP, Chinese-CLIP, AltCLIP or SigLIP model",
        )
    looking = [metric for metric in asked if metric in _BY_EXTRACTOR]
    if looking and not has_extractor:
        raise no_extractor(looking[0])
    if has_extractor and not looking:
        raise UsageError(
            "an extractor is named, and nothing that is asked for needs one",
            hint="ask for {known}, or leave it out",
            known=", ".join(_BY_EXTRACTOR),
        )
    return asked


def no_extractor(metric: str) -> UsageError:
    """Returns what to say where features are wanted and nothing gives them."""
    if metric == "fid":
        return UsageError(
            "FID needs an extractor",
            hint="the published one is Inception with its 2048 features, which is not shipped:"
            " extractor= takes a callable that is one, FILE.py:NAME on the command line;"
            " OWNER/NAME of a CLIP model gives a distance of its own",
        )
    return UsageError(
        "{metric} needs an extractor",
        hint="OWNER/NAME of a CLIP, Chinese-CLIP, SigLIP or DINOv2 model, such as"
        " openai/clip-vit-large-patch14-336",
        metric=metric,
    )
