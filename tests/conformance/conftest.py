import pytest

from zhcached.sources import metadata


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Asks again at once; how long is waited is what tests/unit/sources looks at."""
    monkeypatch.setattr(metadata, "PAUSES_S", (0.0, 0.0))
