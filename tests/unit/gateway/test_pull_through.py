"""Pulling through: real hubs, a real store, real sockets."""


import pytest

from demohub.hub import Hub
from harness.gatewaykit import FILES, REPO, Front

LARGE = "unet/model.safetensors"


@pytest.fixture
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


def test_cold_then_warm(tmp_path, hub):
    with Front(tmp_path / "s", [hub]) as front:
        for path, content in FILES.items():
            cold, warm = front.get(path), front.get(path)
            assert (cold.status, cold.body, cold.cut) == (200, content, False)
            assert (warm.status, warm.body) == (200, content)
            assert hub.sent(path) == len(content)
