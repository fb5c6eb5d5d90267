import pytest

from harness.followkit import Front


@pytest.fixture
def make_front(tmp_path, hub):
    """Returns a function that makes and starts what follows, of these hubs or of ``hub``."""
    made = []

    def make(*hubs, **config):
        made.append(Front(tmp_path, *(hubs or (hub,)), **config))
        return made[-1].start()

    yield make
    for front in made:
        front.stop()


@pytest.fixture
def front(make_front):
    return make_front()
