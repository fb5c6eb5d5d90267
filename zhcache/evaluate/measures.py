"""The functions of ``zhcache.evaluate``: one measure each, of folders, files or images.

Imports neither torch nor transformers before one of them is called.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zhcache.errors import UsageError
from zhcache.evaluate import installed
from zhcache.evaluate.measure import Measure

if TYPE_CHECKING:
    from zhcache.evaluate.outcome import Comparison
    from zhcache.evaluate.pairs import Pair


def fid(real: Any, generated: Any, extractor: Any = None, *, device: str = "auto") -> Measure:
    """Returns the Fréchet distance between two sets of pictures; no state is kept between calls.

    Args:
        real: A folder, a list of files, PIL images or uint8 tensors; or features of shape
            (pictures, dimensions).
        generated: The other set, alike.
        extractor: What gives the features of pictures: ``OWNER/NAME[@REVISION]`` of a model in the
            store, or a callable from uint8 of shape (n, 3, height, width) to (n, dimensions).
        device: Where a model of the store runs.

    Returns:
        The distance; ``remarks`` say what keeps it from meaning what published ones mean, and are
        Python warnings as well.

    Raises:
        UsageError: There are no pictures or features, or no extractor.
        ZhcacheError: The model cannot be had.
    """
    one, other, name = _sets("fid", real, generated, extractor, device)
    from zhcache.evaluate import distances

    value = distances.fid(one, other)
    notes = distances.fid_remarks(one, other)
    found = Measure(value, metric="fid", extractor=name, notes=notes)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=2)
    return found


def kid(
    real: Any,
    generated: Any,
    extractor: Any = None,
    *,
    subsets: int | None = None,
    subset_size: int = 1000,
    seed: int = 0,
    device: str = "auto",
) -> Measure:
    """Returns the kernel distance, unbiased; arguments as ``fid``, and ``distances.kid``.

    Raises:
        UsageError: There are no pictures or features, or no extractor.
        ZhcacheError: The model cannot be had.
    """
    one, other, name = _sets("kid", real, generated, extractor, device)
    from zhcache.evaluate import distances

    found = distances.kid(one, other, subsets=subsets, subset_size=subset_size, seed=seed)
    return Measure(found.value, metric="kid", error=found.error, extractor=name)


def cmmd(
    real: Any,
    generated: Any,
    extractor: Any = None,
    *,
    is_biased: bool = False,
    device: str = "auto",
) -> Measure:
    """Returns CLIP's maximum mean discrepancy; arguments as ``fid``, and ``distances.cmmd``.

    Raises:
        UsageError: There are no pictures or features, or no extractor.
        ZhcacheError: The model cannot be had.
    """
    one, other, name = _sets("cmmd", real, generated, extractor, device)
    from zhcache.evaluate import distances

    found = distances.cmmd(one, other, is_biased=is_biased)
    return Measure(found.value, metric="cmmd", error=found.error, extractor=name)


def psnr(one: Any, other: Any) -> Measure:
    """Returns the median peak signal-to-noise ratio of the pairs in dB; infinite for equal ones.

    Args:
        one: A picture, or several: a folder, files, PIL images or uint8 tensors.
        other: Their counterparts; of folders those with the same prompt and seed, or name.

    Raises:
        UsageError: There are no pairs, or pictures of different sizes.
    """
    installed.check(("torch",))
    from zhcache.evaluate import compared, paired

    values = [paired.psnr(*compared.alike(pair)) for pair in _pairs(one, other)]
    return Measure(statistics.median(values), metric="psnr", values=values)


def ssim(one: Any, other: Any) -> Measure:
    """Returns the mean structural similarity of the pairs; arguments as ``psnr``.

    Raises:
        UsageError: There are no pairs, or pictures of different sizes, or smaller than 11 pixels.
    """
    installed.check(("torch",))
    from zhcache.evaluate import compared, paired

    values = [paired.ssim(*compared.alike(pair)) for pair in _pairs(one, other)]
    return Measure(statistics.fmean(values), metric="ssim", values=values)


def distance(one: Any, other: Any, extractor: Any = None, *, device: str = "auto") -> Measure:
    """Returns how far apart the pairs look to a model, from 0 to 4: of LPIPS's kind, not LPIPS.

    Args:
        one: As ``psnr``.
        other: As ``psnr``.
        extractor: ``OWNER/NAME[@REVISION]`` of a model in the store, or a callable that gives a
            list of feature maps, each (n, channels, height, width) or (n, positions, channels).
        device: Where a model of the store runs.

    Raises:
        UsageError: There are no pairs, or no extractor.
        ZhcacheError: The model cannot be had.
    """
    installed.check()
    from zhcache.evaluate import features, perceptual, wanted

    joined = _pairs(one, other)
    if extractor is None:
        raise wanted.no_extractor("distance")
    looks = features.extractor_of(extractor, device)
    values = perceptual.distances(joined, looks)
    mean = statistics.fmean(values)
    return Measure(mean, metric="distance", values=values, extractor=looks.name)


def clip_score(
    images: Any, prompts: str | Sequence[str], judge: Any, *, device: str = "auto"
) -> Measure:
    """Returns the mean score of pictures by their prompts: 100 times the cosine, unclipped.

    Args:
        images: A picture, or several: a folder, files, PIL images or uint8 tensors.
        prompts: One for all, or one for each.
        judge: ``OWNER/NAME[@REVISION]`` of a model in the store that reads the prompts' language.
        device: Where it runs.

    Raises:
        UsageError: Prompts and pictures do not match, or the judge reads no texts.
        ZhcacheError: The judge cannot be had.
    """
    installed.check()
    from zhcache.evaluate import features, judges, pictures, stored

    shown = pictures.pictures_of(images)
    texts = [prompts] * len(shown) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(shown):
        raise UsageError(
            "{prompts} prompts do not fit {pictures} pictures",
            hint="give one for all, or one for each",
            prompts=len(texts),
            pictures=len(shown),
        )
    model = features.extractor_of(judge, device)
    if not isinstance(model, stored.Stored):
        raise UsageError(
            "a judge is a model of the store",
            hint="--judge OWNER/NAME: a CLIP, Chinese-CLIP, AltCLIP or SigLIP model",
        )
    reads = judges.Judge(model)
    values = reads.scores(shown, texts)
    notes = reads.notes(texts)
    mean = statistics.fmean(values)
    found = Measure(mean, metric="score", values=values, extractor=reads.name, notes=notes)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=2)
    return found


def compare(a: Any, b: Any, **options: Any) -> Comparison:
    """Returns how far B is from A by several measures; see ``zhcache.evaluate.compared.compare``.

    Raises:
        UsageError: Pictures have no counterparts, or an option is missing or cannot be meant.
        ZhcacheError: A model cannot be had.
    """
    installed.check()
    from zhcache.evaluate import compared

    return compared.compare(a, b, **options)


def _sets(
    metric: str, real: Any, generated: Any, extractor: Any, device: str
) -> tuple[Any, Any, str | None]:
    """Returns the features of both sets, and what gave them; None where they were given."""
    installed.check()
    from zhcache.evaluate import features, pictures, wanted

    if all(len(getattr(given, "shape", ())) == 2 for given in (real, generated)):
        if extractor is not None:
            raise UsageError("these are features, and an extractor takes pictures")
        return real, generated, None
    one, other = pictures.pictures_of(real), pictures.pictures_of(generated)
    if extractor is None:
        raise wanted.no_extractor(metric)
    looks = features.extractor_of(extractor, device)
    return features.features_of(one, looks), features.features_of(other, looks), looks.name


def _pairs(one: Any, other: Any) -> list[Pair]:
    from zhcache.evaluate import compared

    return compared.joined_of(one, other)
