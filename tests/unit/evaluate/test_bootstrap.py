"""Intervals: that they cover what they say, that prompts are what is drawn, that seeds fix them."""

import math
import random
import statistics

import pytest

from zhcache.errors import UsageError
from zhcache.evaluate.bootstrap import by_prompt, interval


def drawn(count, seed, make=lambda chance: chance.gauss(5, 2)):
    chance = random.Random(seed)
    return [make(chance) for _ in range(count)]


def test_interval_of_a_mean_is_nearly_the_normal_one():
    values = drawn(200, 1)
    half = 1.96 * statistics.stdev(values) / math.sqrt(200)
    for method in ("percentile", "bca"):
        found = interval(values, method=method)
        assert found.low == pytest.approx(statistics.fmean(values) - half, abs=0.06)
        assert found.high == pytest.approx(statistics.fmean(values) + half, abs=0.06)
        assert (found.level, found.method, found.count) == (0.95, method, 200)


def test_skew_moves_the_corrected_interval_towards_the_tail():
    values = drawn(30, 2, lambda chance: chance.expovariate(1))
    plain, corrected = (interval(values, method=method) for method in ("percentile", "bca"))
    assert corrected.low > plain.low
    assert corrected.high > plain.high
    mirrored = interval([-value for value in values], method="bca")
    assert -mirrored.low == pytest.approx(corrected.high, rel=0.02)


def corrected_by_definition(values, level):
    """The BCa interval of a mean, leaving out each value in turn, from other draws."""
    import numpy

    chance = numpy.random.default_rng(7)
    x = numpy.array(values)
    drawn = x[chance.integers(len(x), size=(40_000, len(x)))].mean(1)
    without = numpy.array([numpy.delete(x, n).mean() for n in range(len(x))])
    off = without.mean() - without
    skew = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    normal = statistics.NormalDist()
    bias = normal.inv_cdf((drawn < x.mean()).mean())
    ends = [bias + normal.inv_cdf(share) for share in ((1 - level) / 2, (1 + level) / 2)]
    return numpy.quantile(drawn, [normal.cdf(bias + z / (1 - skew * z)) for z in ends])


@pytest.mark.parametrize("sign", [1, -1])
def test_corrected_interval_is_its_definition(sign):
    values = [sign * value for value in drawn(25, 8, lambda chance: chance.expovariate(1))]
    found = interval(values, level=0.9, resamples=40_000)
    low, high = corrected_by_definition(values, 0.9)
    assert found.low == pytest.approx(low, rel=0.015)
    assert found.high == pytest.approx(high, rel=0.015)


def test_intervals_cover_what_they_say():
    covered = 0
    for seed in range(150):
        found = interval(drawn(25, seed), level=0.8, resamples=1000)
        covered += found.low < 5 < found.high
    # 120 of 150 are expected; five standard deviations are 25.
    assert 95 <= covered <= 145


def test_median_stands_infinite_values():
    values = [20.0, 30.0, 40.0, math.inf, math.inf, 35.0, 25.0]
    found = interval(values, statistic="median")
    assert found.method == "percentile"
    assert 20 <= found.low < 35 < found.high
    with pytest.raises(UsageError, match="no finite numbers"):
        interval(values)


def test_median_of_an_even_number_lies_between_the_two_in_the_middle():
    # Of two values a quarter of the resamples is 0, a half is mixed, a quarter is 1.
    found = interval([0.0, 1.0], statistic="median", level=0.4)
    assert (found.low, found.high) == (0.5, 0.5)


@pytest.mark.parametrize("count", [8, 9])
def test_median_of_a_resample_is_its_median(count):
    found = interval(drawn(count, 4), statistic="median", level=0.98)
    assert min(drawn(count, 4)) <= found.low < statistics.median(drawn(count, 4)) < found.high


def test_same_seed_same_interval_and_another_seed_another():
    values = drawn(40, 3)
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)
    assert interval(values, seed=2**70) == interval(values, seed=2**70)


def test_equal_values_leave_no_doubt_and_one_value_says_nothing():
    assert (interval([2.0] * 5).low, interval([2.0] * 5).high) == (2, 2)
    assert interval([2.0]) is None
    assert interval([]) is None


def test_seeds_of_one_prompt_are_no_further_evidence():
    chance = random.Random(5)
    prompts = [f"prompt {n}" for n in range(20) for _ in range(8)]
    of = {prompt: chance.gauss(0, 1) for prompt in prompts}
    values = [of[prompt] + chance.gauss(0, 0.01) for prompt in prompts]
    each = by_prompt(values, prompts)
    assert len(each) == 20
    assert each[3] == pytest.approx(statistics.fmean(values[24:32]))
    right, wrong = interval(each), interval(values)
    assert right.high - right.low > 2 * (wrong.high - wrong.low)


def test_values_of_a_prompt_become_their_median_where_that_is_asked():
    assert by_prompt([1.0, math.inf, 3.0, 9.0], ["a", "a", "a", "b"], "median") == [3, 9]


@pytest.mark.parametrize(
    "options",
    [
        {"statistic": "mode"},
        {"method": "studentized"},
        {"method": "bca", "statistic": "median"},
        {"level": 1.0},
        {"resamples": 0},
    ],
)
def test_what_cannot_be_meant_is_refused(options):
    with pytest.raises(UsageError, match="no interval of a"):
        interval([1.0, 2.0, 3.0], **options)
    with pytest.raises(UsageError, match="no finite numbers"):
        interval([1.0, math.nan])
