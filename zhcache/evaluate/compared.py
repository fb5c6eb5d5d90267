"""Two sets of pictures compared by several measures, over pairs or as wholes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zhcache.errors import UsageError, fill
from zhcache.evaluate import bootstrap, distances, paired, pairs, perceptual, wanted
from zhcache.evaluate.features import Extractor, extractor_of, features_of, has_layers
from zhcache.evaluate.judges import Judge
from zhcache.evaluate.measure import note
from zhcache.evaluate.outcome import Comparison, PairRow, Result, Row
from zhcache.evaluate.pairs import Key, Pair
from zhcache.evaluate.pictures import Picture, is_folder, pictures_of, read_prompts
from zhcache.evaluate.stored import Stored
from zhcache.i18n import mark
from zhcache.protocol.sources import Phrase

Progress = Callable[[str, int, int], None]
"""Is told what is measured, how many pictures or pairs of it are done, and of how many."""


def compare(
    a: Any,
    b: Any,
    *,
    metrics: Sequence[str] | None = None,
    extractor: Any = None,
    judges: Sequence[str | Stored] = (),
    prompts: Mapping[str, str] | str | Path | None = None,
    pair_by: Key | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Returns how far B is from A, with intervals over prompts where pictures are paired.

    Args:
        a: A folder, files or images: what the other is measured by.
        b: What is measured.
        metrics: Some of ``zhcache.evaluate.wanted.METRICS``; by default all that ``extractor`` and
            ``judges`` allow, but for FID, which needs more pictures than most have, and for the
            distance of a callable, which gives features or maps.
        extractor: What looks at pictures; as ``zhcache.evaluate.fid``.
        judges: Models of the store that score pictures by their prompts.
        prompts: What pictures are to show, by name, or a file in JSON that says it; by default what
            the pictures of ``zhcache run`` say.
        pair_by: As ``zhcache.evaluate.pairs.paired``; lists are paired in their order.
        device: Where models run.
        seed: Of the bootstrap.
        progress: Is told how far it is.

    Raises:
        UsageError: Pictures have no counterparts, or an option is missing or cannot be meant.
        ZhcacheError: A model cannot be had.
    """
    chosen = wanted.chosen(
        metrics,
        has_extractor=extractor is not None,
        has_judges=bool(judges),
        has_layers=has_layers(extractor),
    )
    ones, others = pictures_of(a), pictures_of(b)
    joined: list[Pair] = []
    by: str | None = None
    if any(metric in wanted.OF_PAIRS for metric in chosen):
        joined, by = _joined(a, b, ones, others, pair_by)
        joined = pairs.with_prompts(joined, _said(prompts)) if prompts is not None else joined
    elif prompts is not None or pair_by is not None:
        raise UsageError(
            "prompts and pairs mean nothing where sets are compared as wholes",
            hint="leave them out, or ask for {known}",
            known=", ".join(wanted.OF_PAIRS),
        )
    if judges:
        pairs.texts(joined)
    work = _Work(joined, ones, others, seed, progress)
    if extractor is not None:
        work.look(chosen, extractor_of(extractor, device))
    work.compare_pixels(chosen)
    _judge_all(work, judges, device)
    if joined:
        work.notes += pairs.design_notes(joined)
    result = Result(
        a=_named(a, "A"),
        b=_named(b, "B"),
        pictures_a=len(ones),
        pictures_b=len(others),
        paired_by=by,
        metrics=sorted(work.rows, key=lambda row: wanted.METRICS.index(row.metric)),
        pairs=work.each,
        warnings=[fill(one.template, one.values) for one in work.notes],
    )
    return Comparison(result, joined, work.notes)


class _Work:
    """One comparison under way."""

    def __init__(
        self,
        joined: Sequence[Pair],
        ones: Sequence[Picture],
        others: Sequence[Picture],
        seed: int,
        progress: Progress,
    ) -> None:
        self.rows: list[Row] = []
        self.notes: list[Phrase] = []
        self.each = [
            PairRow(name=p.name, a=p.one.shown, b=p.other.shown, prompt=p.prompt, seed=p.seed)
            for p in joined
        ]
        self._pairs = joined
        self._sets = (ones, others)
        self._seed = seed
        self._progress = progress
        is_told = all(pair.prompt is not None for pair in joined)
        self._prompts = [pair.prompt if is_told else number for number, pair in enumerate(joined)]

    def compare_pixels(self, chosen: Sequence[str]) -> None:
        """Measures PSNR and SSIM, one pair in memory at a time."""
        asked = [metric for metric in chosen if metric in ("psnr", "ssim")]
        found: dict[str, list[float]] = {metric: [] for metric in asked}
        for pair, row in zip(self._pairs if asked else (), self.each, strict=False):
            one, other = alike(pair)
            for metric in asked:
                value = paired.psnr(one, other) if metric == "psnr" else paired.ssim(one, other)
                found[metric].append(value)
                setattr(row, metric, value)
            self._progress("pixels", len(found[asked[0]]), len(self._pairs))
        for metric, values in found.items():
            # Equal pictures have an infinite ratio, which no mean survives.
            self._add(metric, values, "median" if metric == "psnr" else "mean")

    def look(self, chosen: Sequence[str], extractor: Extractor) -> None:
        """Measures what is measured with features."""
        if "distance" in chosen:
            step = self._counting("distance", len(self._pairs))
            values = perceptual.distances(self._pairs, extractor, step)
            for row, value in zip(self.each, values, strict=True):
                row.distance = value
            self._add("distance", values, "mean", by=extractor.name)
        asked = [metric for metric in chosen if metric in wanted.OF_SETS]
        if not asked:
            return
        step = self._counting("features", sum(len(each) for each in self._sets))
        real, made = (features_of(each, extractor, step) for each in self._sets)
        for metric in asked:
            found = _between(metric, real, made)
            self.rows.append(
                Row(metric=metric, value=found.value, error=found.error, by=extractor.name)
            )
        if "fid" in asked:
            self.notes += distances.fid_remarks(real, made)

    def judge(self, judge: Judge) -> None:
        """Scores both pictures of each pair."""
        texts = pairs.texts(self._pairs)
        step = self._counting("score", 2 * len(texts))
        one = judge.scores([pair.one for pair in self._pairs], texts, step)
        other = judge.scores([pair.other for pair in self._pairs], texts, step)
        for row, scored in zip(self.each, zip(one, other, strict=True), strict=True):
            row.scores = {**row.scores, judge.name: scored}
        gained = [second - first for first, second in zip(one, other, strict=True)]
        self._add("score", gained, "mean", by=judge.name)
        for name, values in (("a", one), ("b", other)):
            each = bootstrap.by_prompt(values, self._prompts)
            setattr(self.rows[-1], name, sum(each) / len(each))
        self.notes += judge.notes(texts)

    def _add(
        self,
        metric: str,
        values: Sequence[float],
        statistic: bootstrap.Statistic,
        by: str | None = None,
    ) -> None:
        each = bootstrap.by_prompt(values, self._prompts, statistic)
        (value,) = bootstrap.by_prompt(each, [0] * len(each), statistic)
        found = bootstrap.interval(each, statistic=statistic, seed=self._seed)
        row = Row(
            metric=metric,
            value=value,
            statistic=statistic,
            prompts=len(each),
            by=by,
        )
        if found is not None:
            row.low, row.high = found.low, found.high
            row.level, row.method = found.level, found.method
        self.rows.append(row)

    def _counting(self, what: str, total: int) -> Callable[[int], None]:
        done = 0

        def step(count: int) -> None:
            nonlocal done
            done += count
            self._progress(what, done, total)

        return step


def _judge_all(work: _Work, judges: Sequence[str | Stored], device: str) -> None:
    named: set[str] = set()
    for judge in judges:
        model = Stored(*_reference(judge), device=device) if isinstance(judge, str) else judge
        if model.name in named:
            raise UsageError(
                "{judge} is named twice, and agrees with itself",
                hint="name another one that is unrelated, or leave one out",
                judge=model.name,
            )
        named.add(model.name)
        work.judge(Judge(model))
    if len(judges) == 1:
        text = mark("one judge alone: what it favours passes for quality; name a second one")
        work.notes.append(note(text))


def _between(metric: str, real: Any, made: Any) -> distances.Estimate:
    if metric == "fid":
        return distances.Estimate(distances.fid(real, made), None)
    return distances.kid(real, made) if metric == "kid" else distances.cmmd(real, made)


def alike(pair: Pair) -> tuple[Any, Any]:
    """Returns the pixels of a pair, which have to have one size.

    Raises:
        UsageError: They have not.
    """
    one, other = pair.one.read(), pair.other.read()
    if one.size != other.size:
        raise UsageError(
            "{one} has {size} pixels and {other} {other_size}",
            hint="make both with the same size; features can be compared without: --metric cmmd",
            one=pair.one.shown,
            size=f"{one.width}x{one.height}",
            other=pair.other.shown,
            other_size=f"{other.width}x{other.height}",
        )
    return paired.pixels(one), paired.pixels(other)


def joined_of(a: Any, b: Any) -> list[Pair]:
    """Returns the pairs of two folders, by prompt and seed or name, or of two lists, in order.

    Raises:
        UsageError: A picture has no counterpart.
    """
    return _joined(a, b, pictures_of(a), pictures_of(b), None)[0]


def _joined(
    a: Any, b: Any, ones: Sequence[Picture], others: Sequence[Picture], by: Key | None
) -> tuple[list[Pair], str]:
    are_folders = all(
        isinstance(each, (str, Path)) and is_folder(Path(each).expanduser()) for each in (a, b)
    )
    if are_folders:
        return pairs.paired(ones, others, by, (str(a), str(b)))
    if by is not None:
        raise UsageError("only folders are paired by {by}; lists are in order", by=by)
    return pairs.in_order(ones, others), "order"


def _said(prompts: Mapping[str, str] | str | Path) -> Mapping[str, str]:
    if isinstance(prompts, (str, Path)):
        return read_prompts(Path(prompts).expanduser())
    return prompts


def _reference(name: str) -> tuple[str, str | None]:
    repo, _, revision = name.partition("@")
    return repo, revision or None


def _named(given: Any, otherwise: str) -> str:
    return str(given) if isinstance(given, (str, Path)) else otherwise
