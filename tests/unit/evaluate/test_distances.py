"""Distances between sets, against closed forms and against sums written out one by one."""

import math

import pytest
import torch

from zhcache.errors import UsageError
from zhcache.evaluate import distances


def drawn(n, d, seed, shift=0.0, scale=1.0):
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=chance, dtype=torch.float64) * scale + shift


def root(matrix):
    """The root of a positive matrix, by its eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


def fid_by_definition(one, other):
    a, b = torch.cov(one.T), torch.cov(other.T)
    middle = root(root(a) @ b @ root(a))
    apart = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return float(apart + torch.trace(a + b - 2 * middle))


def mmd_by_definition(kernel, one, other, *, biased=False):
    n, m = len(one), len(other)
    same = [kernel(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if biased or i != j]
    there = [
        kernel(x, y) for i, x in enumerate(other) for j, y in enumerate(other) if biased or i != j
    ]
    across = [kernel(x, y) for x in one for y in other]
    assert len(across) == n * m
    return sum(same) / len(same) + sum(there) / len(there) - 2 * sum(across) / len(across)


def cubic(x, y):
    return (float(x @ y) / len(x) + 1) ** 3


def gaussian(x, y):
    x, y = x / x.norm(), y / y.norm()
    return 1000 * math.exp(-float(((x - y) ** 2).sum()) / 200)


def whitened(n, d, seed):
    """Features with mean 0 and covariance 1 exactly."""
    x = drawn(n, d, seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


@pytest.mark.parametrize("n", [40, 200])
def test_fid_of_gaussians_with_known_moments(n):
    spread = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64)
    found = distances.fid(whitened(n, 3, 1), whitened(n, 3, 2) * spread + shift)
    # |3, 0, -4|² and, of commuting covariances, the sum of (1 - s)².
    assert found == pytest.approx(25 + 0 + 1 + 0.25)


@pytest.mark.parametrize(("n", "m"), [(60, 50), (5, 6), (60, 5)])
def test_fid_is_its_definition_for_many_and_for_few_pictures(n, m):
    one, other = drawn(n, 8, 1), drawn(m, 8, 2, shift=0.3, scale=1.5)
    other[:, 0] += other[:, 1]
    assert distances.fid(one, other) == pytest.approx(fid_by_definition(one, other), abs=1e-6)


def test_fid_of_gaussians_on_lines_at_right_angles():
    # Nothing that one spreads over the other does: the root of the product is nothing.
    line = torch.arange(-5, 6, dtype=torch.float64)
    one, other = torch.zeros(11, 6, dtype=torch.float64), torch.ones(11, 6, dtype=torch.float64)
    one[:, 0], other[:, 5] = line, 1 + 2 * line
    assert distances.fid(one, other) == pytest.approx(6 + 11 + 44)


def test_fid_of_a_set_and_itself_is_nothing():
    one = drawn(50, 10, 1)
    assert distances.fid(one, one) == pytest.approx(0, abs=1e-9)


def test_fid_keeps_nothing_of_the_last_call():
    one, other, far = drawn(50, 4, 1), drawn(50, 4, 2), drawn(50, 4, 3, shift=90)
    first = distances.fid(one, other)
    distances.fid(far, other)
    assert distances.fid(one, other) == first


@pytest.mark.parametrize(("n", "m"), [(7, 7), (9, 5)])
def test_kid_and_cmmd_are_their_definitions(n, m):
    one, other = drawn(n, 4, 1), drawn(m, 4, 2, shift=0.5)
    assert distances.kid(one, other).value == pytest.approx(mmd_by_definition(cubic, one, other))
    found = distances.cmmd(one, other).value
    assert found == pytest.approx(mmd_by_definition(gaussian, one, other), abs=1e-9)
    published = distances.cmmd(one, other, is_biased=True).value
    expected = mmd_by_definition(gaussian, one, other, biased=True)
    assert published == pytest.approx(expected, abs=1e-9)
    assert published > found


def test_blocks_change_nothing(monkeypatch):
    one, other = drawn(23, 4, 1), drawn(17, 4, 2)
    kid, cmmd = distances.kid(one, other), distances.cmmd(one, other)
    monkeypatch.setattr(distances, "_BLOCK", 5)
    assert distances.kid(one, other) == pytest.approx(kid)
    assert distances.cmmd(one, other) == pytest.approx(cmmd)


def test_halves_of_one_set_are_no_distance_apart_by_kid_and_far_by_fid():
    pairs = [(drawn(60, 64, 2 * k), drawn(60, 64, 2 * k + 1)) for k in range(40)]
    for distance in (distances.kid, distances.cmmd):
        found = torch.tensor([distance(a, b).value for a, b in pairs])
        # The mean of forty, within four of its standard errors.
        assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(40)
        assert float(found.min()) < 0
    biased = torch.tensor([distances.cmmd(a, b, is_biased=True).value for a, b in pairs])
    assert float(biased.min()) > 0
    assert distances.fid(*pairs[0]) > 20


def test_error_is_how_much_the_distance_varies():
    found = [
        distances.kid(drawn(80, 6, 2 * k), drawn(80, 6, 2 * k + 1, shift=0.4)) for k in range(60)
    ]
    spread = float(torch.tensor([one.value for one in found]).std())
    told = sum(one.error for one in found) / len(found)
    assert told == pytest.approx(spread, rel=0.3)
    assert distances.kid(drawn(2, 3, 1), drawn(9, 3, 2)).error is None


def test_kid_over_subsets_is_near_that_of_all_and_seeded():
    one, other = drawn(200, 6, 1), drawn(220, 6, 2, shift=0.4)
    whole = distances.kid(one, other)
    found = distances.kid(one, other, subsets=60, subset_size=80, seed=3)
    assert found.value == pytest.approx(whole.value, rel=0.15)
    assert found == distances.kid(one, other, subsets=60, subset_size=80, seed=3)
    assert found != distances.kid(one, other, subsets=60, subset_size=80, seed=4)
    assert distances.kid(one, other, subsets=9, subset_size=80, seed=2**70).error > 0


def test_features_are_taken_from_lists_and_arrays():
    one, other = drawn(5, 3, 1), drawn(6, 3, 2)
    assert distances.fid(one.tolist(), other.numpy()) == distances.fid(one, other)


@pytest.mark.parametrize(
    ("real", "generated", "words"),
    [
        (drawn(5, 3, 1), drawn(5, 4, 1), "3 and of 4 dimensions"),
        (drawn(1, 3, 1), drawn(5, 3, 1), r"real has the shape \(1, 3\)"),
        (drawn(5, 3, 1), drawn(5, 3, 1)[0], "generated has the shape"),
        (drawn(5, 3, 1), drawn(5, 3, 1) * math.inf, "not finite"),
        ([["a", "b"]], drawn(5, 3, 1), "are no features"),
    ],
)
def test_what_is_no_features_is_refused(real, generated, words):
    with pytest.raises(UsageError, match=words):
        distances.fid(real, generated)


@pytest.mark.parametrize(("subsets", "size"), [(0, 3), (5, 1), (5, 7)])
def test_subsets_that_cannot_be_had_are_refused(subsets, size):
    with pytest.raises(UsageError, match="cannot be had"):
        distances.kid(drawn(6, 3, 1), drawn(6, 3, 2), subsets=subsets, subset_size=size)


def words(real, generated, dimensions):
    return [phrase.template for phrase in distances.fid_notes(real, generated, dimensions)]


def test_fid_is_told_to_mean_nothing_where_it_does():
    assert words(10_000, 10_000, 2048) == []
    assert [w[:20] for w in words(9999, 9999, 2048)] == ["FID of {count} pictu"]
    assert [w[:20] for w in words(50_000, 10_000, 2048)] == ["FID depends on the n"]
    assert [w[:14] for w in words(20_000, 20_000, 64)] == ["these features"]
    assert len(words(50, 60, 512)) == 4


def test_how_far_too_high_fid_is_is_measured():
    one, other = drawn(60, 40, 1, scale=3), drawn(60, 40, 2)
    told = distances.fid_remarks(one, other)[0]
    assert float(told.values["halves"]) == pytest.approx(distances.fid(one[::2], one[1::2]), 1e-3)
    assert (told.values["count"], told.values["half"]) == ("60", "30")
    assert "halves" not in distances.fid_remarks(one[:3], other)[0].values
