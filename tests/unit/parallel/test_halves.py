"""What of a denoiser's arguments goes to which half."""

import pytest

torch = pytest.importorskip("torch")

from zhcached.workers.parallel.guidance import halved  # noqa: E402


def test_halves_are_the_first_and_the_second():
    whole = torch.arange(8).reshape(4, 2)
    assert torch.equal(halved(whole, 4, 0), whole[:2])
    assert torch.equal(halved(whole, 4, 1), whole[2:])


def test_what_is_not_as_long_as_the_batch_stays_whole():
    for value in (torch.tensor(7), torch.arange(3), 0.5, None, "text"):
        assert halved(value, 4, 1) is value


def test_containers_are_looked_into_and_not_changed():
    residuals = [torch.arange(4), torch.arange(8).reshape(4, 2)]
    added = {"text_embeds": torch.arange(4), "scale": 1.0, "image_embeds": (torch.arange(4),)}
    assert [len(one) for one in halved(residuals, 4, 1)] == [2, 2]
    mine = halved(added, 4, 1)
    assert mine["text_embeds"].tolist() == mine["image_embeds"][0].tolist() == [2, 3]
    assert mine["scale"] == 1.0
    assert [len(one) for one in residuals] == [4, 4]
    assert isinstance(mine["image_embeds"], tuple)
