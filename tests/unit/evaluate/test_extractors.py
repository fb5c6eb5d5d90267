"""What looks at pictures: users' callables, files and modules; distances of feature maps."""

import math
import sys

import pytest
import torch

from harness import visionkit
from zhcache.errors import NotFound, UsageError
from zhcache.evaluate import perceptual
from zhcache.evaluate.features import BATCH, Own, extractor_of, features_of
from zhcache.evaluate.pairs import in_order
from zhcache.evaluate.pictures import pictures_of


def means(batch):
    assert batch.dtype == torch.uint8
    return batch.float().mean((2, 3))


def test_a_callable_is_given_bytes_and_its_features_come_in_order():
    sizes = [(40, 32), (8, 8), (8, 8), (40, 32)]
    images = [visionkit.noise(n, size) for n, size in enumerate(sizes)]
    pictures = pictures_of(images) * BATCH
    counted = []
    found = features_of(pictures, extractor_of(means), counted.append)
    assert found.shape == (4 * BATCH, 3)
    assert sum(counted) == 4 * BATCH
    for number, image in enumerate(images):
        flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(-1, 3)
        assert found[number].tolist() == pytest.approx(flat.float().mean(0).tolist(), rel=1e-5)
        assert torch.equal(found[number], found[number + 4])


def test_a_module_is_called_where_its_weights_are_and_not_in_training():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(5))
    with pytest.raises(UsageError, match="Sequential is in training"):
        extractor_of(module)

    class Looks(torch.nn.Module):
        def forward(self, batch):
            return means(batch)

    assert extractor_of(Looks().eval()).features([visionkit.noise(1)]).shape == (1, 3)
    assert not extractor_of(Looks().eval()).features([visionkit.noise(1)]).requires_grad


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda batch: batch.mean(), "failed: RuntimeError"),
        (lambda batch: batch.float().mean(), r"gave Tensor for 1|gave \(\)"),
        (lambda batch: means(batch)[0], r"gave \(3,\) for 1 pictures"),
        (lambda batch: torch.zeros(2, 4), r"gave \(2, 4\) for 1 pictures"),
        (lambda batch: None, "gave NoneType"),
    ],
)
def test_what_gives_no_features_is_told(call, words):
    with pytest.raises(UsageError, match=words):
        Own(call).features([visionkit.noise(1)])


def test_a_file_of_the_users_own_defines_an_extractor(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def looks(batch):\n    return batch.float().mean((2, 3))\nsize = 3\n")
    found = extractor_of(f"{file}:looks")
    assert found.name == f"{file}:looks"
    assert found.features([visionkit.noise(1)]).shape == (1, 3)
    with pytest.raises(UsageError, match="defines no callable size"):
        extractor_of(f"{file}:size")
    file.write_text("import nothing_of_this_name\n")
    with pytest.raises(UsageError, match="cannot be run: ModuleNotFoundError"):
        extractor_of(f"{file}:looks")
    with pytest.raises(NotFound):
        extractor_of(f"{tmp_path}/none.py:looks")
    with pytest.raises(UsageError, match="3 is no extractor"):
        extractor_of(3)
    with pytest.raises(UsageError, match="one thing of it") as raised:
        extractor_of(str(file))
    assert raised.value.hint == f"name it: {file}:NAME"


def test_a_file_that_exits_has_not_measured_anything(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit(0)\n")
    with pytest.raises(UsageError, match="cannot be run: SystemExit"):
        extractor_of(f"{file}:looks")
    file.write_text("def looks(batch):\n    raise SystemExit(0)\n")
    with pytest.raises(UsageError, match="failed: SystemExit"):
        extractor_of(f"{file}:looks").features([visionkit.noise(1)])


@pytest.mark.parametrize("name", ["mine", "torch"])
def test_a_file_is_a_module_as_imported_ones_are_and_takes_no_ones_place(tmp_path, name):
    file = tmp_path / f"{name}.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Looks:\n    scale: float\n    def __call__(self, batch):\n"
        "        return batch.float().mean((2, 3)) * self.scale\nlooks = Looks(2.0)\n"
    )
    found = extractor_of(f"{file}:looks").features([visionkit.noise(1)])
    assert found == pytest.approx(2 * extractor_of(means).features([visionkit.noise(1)]))
    assert sys.modules["torch"] is torch


def test_distance_of_feature_maps_is_that_of_directions():
    one = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
    other = torch.tensor([[[0.0, 5.0], [0.0, 9.0]]])
    # At right angles 2, the same 0; the mean over two positions.
    assert perceptual.between([one], [other]).tolist() == pytest.approx([1.0])
    assert perceptual.between([one, one], [other, one]).tolist() == pytest.approx([0.5])
    assert perceptual.between([one], [-one]).tolist() == pytest.approx([4.0])
    assert perceptual.between([one], [one * 7]).tolist() == pytest.approx([0.0], abs=1e-9)
    nothing = torch.zeros(1, 2, 2)
    assert math.isfinite(float(perceptual.between([nothing], [one])))
    with pytest.raises(UsageError, match="different shapes are not compared"):
        perceptual.between([one], [other[:, :1]])


def test_distances_of_pairs_are_in_order_whatever_sizes_they_have():
    def maps(batch):
        return [batch.float(), batch.float()[:, :, ::4, ::4].flatten(2).transpose(1, 2)]

    sizes = [(16, 16), (24, 16), (16, 16)]
    ones = [visionkit.noise(n, size) for n, size in enumerate(sizes)]
    others = [visionkit.noise(n + 50, size) for n, size in enumerate(sizes)]
    wide, flat = Own(maps).layers(ones[:1])
    assert (wide.shape, flat.shape) == ((1, 256, 3), (1, 16, 3))
    joined = in_order(pictures_of(ones), pictures_of(others))
    found = perceptual.distances(joined, Own(maps))
    for pair, value in zip(joined, found, strict=True):
        (alone,) = perceptual.distances([pair], Own(maps))
        assert value == pytest.approx(alone)
    same = in_order(pictures_of(ones), pictures_of(ones))
    assert perceptual.distances(same, Own(maps)) == pytest.approx([0, 0, 0], abs=1e-6)
    for other in (means, lambda _: [None], lambda _: [torch.tensor(1.0)], lambda _: [maps, "x"]):
        with pytest.raises(UsageError, match="no feature maps"):
            perceptual.distances(joined, Own(other))
