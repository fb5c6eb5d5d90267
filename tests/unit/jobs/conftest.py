import itertools

import msgspec
import pytest

from demohub import Hub
from harness.followkit import Front

_numbers = itertools.count()


@pytest.fixture
def make_front(tmp_path):
    """Returns a function that makes and starts what follows."""
    made = []

    def make(*hubs, **config):
        made.append(Front(tmp_path, *hubs, **config))
        return made[-1].start()

    yield make
    for front in made:
        front.stop()


@pytest.fixture(scope="module")
def one_hub():
    with Hub() as started:
        yield started


@pytest.fixture(scope="module")
def one_front(one_hub, tmp_path_factory):
    front = Front(tmp_path_factory.mktemp("front"), one_hub).start()
    yield front
    front.stop()


@pytest.fixture
def repo():
    """A repository's name that no other test has; its files should differ by it too."""
    return f"org/n{next(_numbers)}"


@pytest.fixture
def front(one_hub, one_front):
    """What follows ``hub``, shared by the tests of a module; it follows nothing at first."""
    one_hub.clear_log()
    yield one_front
    one_hub.heal()
    one_front.control.reset()
    one_front.config = msgspec.structs.replace(one_front.config, hours="")
    one_front.hours("")
    for one in one_front.all():
        one_front.unfollow(one.repo, may_all=True)


@pytest.fixture
def hub(one_hub):
    return one_hub
