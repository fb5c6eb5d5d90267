"""A node's queue, in threads: order by model, errors of their own calls, an end that ends."""

from concurrent.futures import wait

import pytest

from harness.paintkit import Studio, task
from zhcache.cluster.node import Node
from zhcache.cluster.order import Turns
from zhcache.errors import Cancelled, DaemonUnreachable, NotFound


@pytest.fixture
def make_node():
    made = []

    def make(studio, *devices, **options):
        node = Node(
            devices or ("cpu",), open_pipeline=studio.open, warm=studio.warm, name="n", **options
        )
        made.append((studio, node))
        return node

    yield make
    for studio, node in made:
        studio.go_on.set()
        node.close()


def held(studio, node, *repos):
    """Puts calls into the queue while the first of them holds the lane; returns their futures."""
    studio.go_on.clear()
    futures = [node.submit(task(repos[0], 0))]
    assert studio.begun.acquire(timeout=20)
    futures += [node.submit(task(repo, seed)) for seed, repo in enumerate(repos[1:], 1)]
    return futures


def test_image_is_that_of_its_task(make_node):
    node = make_node(Studio())
    picture = node.submit(task("org/a", 7, width=4, height=2)).result(20)
    assert (picture.size, picture.commit, picture.node) == ((4, 2), "c" * 40, "n")
    assert picture.image().getpixel((0, 0)) == (7, 0, 0)


def test_calls_are_ordered_by_model_and_each_is_loaded_once(make_node):
    studio = Studio(slots=1)
    node = make_node(studio)
    futures = held(studio, node, *("ab" * 5))
    studio.go_on.set()
    wait(futures, 20)
    assert studio.loads == ["a", "b"]
    assert studio.drawn == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]


def test_what_another_client_brought_there_is_warm_too(make_node):
    studio = Studio(slots=3)
    studio.use("b")
    node = make_node(studio)
    futures = held(studio, node, "c", "a", "b")
    studio.go_on.set()
    wait(futures, 20)
    assert studio.drawn == [0, 2, 1]


def test_error_is_that_of_its_call_alone(make_node):
    studio = Studio()
    studio.errors = [NotFound("no such scheduler"), None]
    node = make_node(studio)
    first, second = node.submit(task(seed=1)), node.submit(task(seed=2))
    with pytest.raises(NotFound):
        first.result(20)
    assert second.result(20).image().getpixel((0, 0)) == (2, 0, 0)


def test_two_devices_share_the_models_and_load_none_twice(make_node):
    studio = Studio()
    node = make_node(studio, "cpu", "cpu", turns=Turns(share_s=1000.0))
    studio.go_on.clear()
    futures = [node.submit(task(repo, seed)) for seed, repo in enumerate("ababab")]
    for _ in range(2):
        assert studio.begun.acquire(timeout=20)
    assert sorted(studio.loads) == ["a", "b"]
    studio.go_on.set()
    wait(futures, 20)
    assert sorted(studio.loads) == ["a", "b"]
    assert sorted(studio.drawn) == list(range(6))


def test_model_that_another_device_is_loading_is_left_to_it(make_node):
    studio = Studio()
    node = make_node(studio, "cpu", "cpu")
    studio.may_open.clear()
    futures = [node.submit(task("a", 0))]
    assert studio.opening.acquire(timeout=20)
    futures += [node.submit(task("a", 1)), node.submit(task("b", 2))]
    assert studio.opening.acquire(timeout=20)
    studio.may_open.set()
    wait(futures, 20)
    assert studio.opened == ["a", "b"]


def test_status_tells_what_waits_and_what_is_warm(make_node):
    studio = Studio()
    node = make_node(studio)
    for _ in range(2):
        node.submit(task("a")).result(20)
    futures = held(studio, node, "a", "b", "a")
    node.look()
    status = node.status()
    assert (status.waiting, status.warm, status.is_up) == (3, {"a"}, True)
    assert status.queue_s >= 2 * status.call_s > 0
    studio.go_on.set()
    wait(futures, 20)


def test_first_call_of_a_model_is_loading_and_no_measure_of_calls(make_node):
    studio = Studio()
    node = make_node(studio)
    for repo in "ab":
        node.submit(task(repo)).result(20)
    status = node.status()
    assert status.call_s == 0.0 < status.load_s


def test_daemon_that_does_not_answer_is_told_of_and_no_model_is_warm(make_node):
    studio = Studio()
    node = make_node(studio)

    def silent():
        raise DaemonUnreachable("nobody answers")

    node._look = silent
    node.look()
    assert (node.status().is_up, node.status().warm) == (False, frozenset())


def test_end_cancels_what_waits_and_releases_what_is_open(make_node):
    studio = Studio()
    node = make_node(studio)
    running, waiting = held(studio, node, "a", "a")
    node.close()
    for future in (running, waiting):
        with pytest.raises(Cancelled):
            future.result(0)
    assert not studio.is_stuck
    assert studio.released == ["a"]
    with pytest.raises(Cancelled):
        node.submit(task()).result(20)
