"""A batch: in order, made once, gone on with, tried again where its place was lost."""

import json
import sys
import threading
from types import ModuleType

import pytest

from harness.paintkit import Studio
from simulators.daemon import DaemonSimulator
from zhcache import cluster
from zhcache.cluster import batch, trying
from zhcache.cluster.node import Node
from zhcache.errors import (
    Busy,
    DaemonUnreachable,
    NotPermitted,
    Partial,
    UsageError,
    VersionMismatch,
    WorkerDied,
)

PROMPTS = [f"number {number}" for number in range(12)]


class Crew:
    """Makes images by a studio; says what commits models have."""

    width = 4
    abreast = None

    def __init__(self, studio):
        self.node = Node(open_pipeline=studio.open, warm=studio.warm)
        self.settled = []
        self.errors = []
        self.unsettled = []
        self.begin = None

    def settle(self, model):
        self.settled.append(model.repo)
        if self.unsettled:
            raise self.unsettled.pop(0)
        return "5" * 40

    def make(self, task):
        if task.prompt == self.begin.bad:
            raise WorkerDied("killed by it")
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        return self.node.submit(task).result(20)

    def close(self):
        self.node.close()


@pytest.fixture
def crew(monkeypatch):
    monkeypatch.setattr(trying, "_PAUSE_S", 0.0)
    made = []

    def begin(*_):
        made.append(Crew(studio))
        made[-1].errors, made[-1].unsettled, made[-1].begin = begin.errors, begin.unsettled, begin
        return made[-1]

    studio = Studio()
    begin.studio, begin.made = studio, made
    begin.errors, begin.unsettled, begin.bad = [], [], None
    monkeypatch.setattr(batch, "_crew", begin)
    return begin


def red(made):
    return [one.image.getpixel((0, 0))[0] for one in made]


def test_images_come_in_the_order_of_their_prompts_with_a_seed_each(crew):
    made = cluster.generate("org/a", PROMPTS, seeds=40, width=4)
    assert [one.prompt for one in made] == PROMPTS
    assert [one.seed for one in made] == list(range(40, 52)) == red(made)
    assert {one.commit for one in made} == {"5" * 40}


def test_seeds_of_an_array_are_numbers_in_the_journal(crew, tmp_path):
    numpy = pytest.importorskip("numpy", reason="pip install 'zhcache[torch]'")
    made = cluster.generate("org/a", PROMPTS[:2], seeds=numpy.arange(5, 7), out=tmp_path)
    assert [one.seed for one in made] == [5, 6]
    again = cluster.generate("org/a", PROMPTS[:2], seeds=numpy.int64(5), out=tmp_path)
    assert (again, len(crew.made)) == (made, 1)


def test_sorted_batch_gives_work_to_several_nodes_at_once(crew, monkeypatch):
    monkeypatch.setattr(Crew, "abreast", 2)
    monkeypatch.setattr(Crew, "width", 1)
    made = cluster.generate(["org/a"] * 6 + ["org/b"] * 6, PROMPTS)
    assert crew.studio.drawn == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert red(made) == list(range(12))


def test_models_are_settled_once_each(crew):
    cluster.generate(["org/a", "org/b"] * 6, PROMPTS)
    assert sorted(crew.made[0].settled) == ["org/a", "org/b"]


def test_lost_calls_are_made_again_and_full_queues_waited_for(crew):
    crew.errors += [DaemonUnreachable("gone"), Busy("full"), None] * 5
    assert red(cluster.generate("org/a", PROMPTS)) == list(range(12))
    assert sorted(crew.studio.drawn) == list(range(12))


def test_waiting_for_room_uses_up_no_tries(crew):
    crew.errors += [Busy("full")] * 20 + [DaemonUnreachable("gone")]
    assert red(cluster.generate("org/a", PROMPTS[:1])) == [0]


def test_place_that_is_lost_again_and_again_ends_the_batch(crew):
    crew.errors += [DaemonUnreachable("gone")] * 40
    with pytest.raises(DaemonUnreachable):
        cluster.generate("org/a", PROMPTS[:4])


def test_batch_that_failed_goes_on_with_what_is_missing(crew, tmp_path):
    crew.errors += [None] * 8 + [UsageError("no such thing")]
    with pytest.raises(Partial, match="no such thing"):
        cluster.generate("org/a", PROMPTS, out=tmp_path)
    first = len(crew.studio.drawn)
    assert 8 <= first < 12
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    made = cluster.generate("org/a", PROMPTS, out=tmp_path)
    assert len(crew.studio.drawn) == 12 == len(made)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert [one.path.name for one in made] == [f"{n:05}.png" for n in range(12)]
    assert crew.made[1].settled == [], "what was begun with one commit goes on with it"


def test_prompt_that_always_fails_keeps_its_neighbours_from_nothing(crew, tmp_path):
    for out in (None, tmp_path):
        crew.bad = "number 1"
        with pytest.raises(
            cluster.Unfinished, match=r"11 of 12 .* number 1: killed by it"
        ) as caught:
            cluster.generate("org/a", PROMPTS, out=out)
        assert [*caught.value.failed] == [1]
        assert sorted(caught.value.made) == [0, *range(2, 12)]
        assert caught.value.code == "partial"
    crew.bad = None
    assert len(cluster.generate("org/a", PROMPTS, out=tmp_path)) == 12


def test_what_a_model_means_is_asked_again_where_the_node_that_was_asked_is_lost(crew):
    crew.unsettled += [DaemonUnreachable("gone"), Busy("full"), VersionMismatch("an old one")]
    assert red(cluster.generate("org/a", PROMPTS[:2])) == [0, 1]
    assert crew.made[0].settled == ["org/a"] * 4


def test_batch_that_is_whole_asks_nobody(crew, tmp_path):
    first = cluster.generate("org/a", PROMPTS, out=tmp_path)
    assert cluster.generate("org/a", PROMPTS, out=tmp_path) == first
    assert len(crew.made) == 1


def test_first_error_is_itself_where_nothing_was_made(crew):
    crew.errors += [UsageError("no such argument")] * 12
    with pytest.raises(UsageError, match="no such argument"):
        cluster.generate("org/a", PROMPTS)
    assert crew.errors, "eight in a row end it"


def test_interrupt_ends_calls_that_wait(crew, tmp_path):
    def stop(*_):
        crew.studio.go_on.clear()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.generate("org/a", PROMPTS, out=tmp_path, on_made=stop)
    assert not crew.studio.is_stuck
    assert not any(thread.name.startswith("call") for thread in threading.enumerate())
    assert len(json.loads(f"[{','.join((tmp_path / 'journal.jsonl').read_text().split())}]")) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": "one text"}, "one text"),
        ({"prompts": ["a", "b"], "seeds": [1]}, "seeds"),
        ({"prompts": ["a"], "repo": ["org/a", "org/b"]}, "repo"),
        ({"prompts": ["a"], "num_images_per_prompt": 2}, "num_images_per_prompt"),
        ({"prompts": ["a"], "image": object()}, "image"),
        ({"prompts": ["a"], "mask": b"bytes"}, "mask"),
        ({"prompts": ["a"], "sizes": {1: 2}}, "sizes"),
        ({"prompts": ["a", None]}, "prompt 1"),
        ({"prompts": ["a"], "seeds": 1.5}, "seed takes"),
        ({"prompts": ["a"], "seeds": ["1"]}, "seed takes"),
        ({"prompts": ["a"], "seeds": None}, "seed takes"),
        ({"prompts": ["a", "b"], "seeds": 2**64 - 1}, "seed takes"),
        ({"prompts": ["a"], "device": []}, "device"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_begins(crew, given, said):
    with pytest.raises(UsageError, match=said):
        cluster.generate(**{"repo": "org/a", **given})
    assert not crew.made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nodes", 0),
        ("nodes", -1),
        ("nodes", (3, 1)),
        ("nodes", (1, 2, 3)),
        ("nodes", "2"),
        ("device", []),
        ("depth", 0),
        ("queue", -1),
        ("spill_s", -1.0),
        ("age_s", float("nan")),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_the_cluster_is_asked(name, value):
    with pytest.raises(UsageError, match=f"{name}=.* cannot be meant"):
        cluster.serve("org/a", **{name: value})


def test_cluster_without_ray_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        cluster.generate("org/a", PROMPTS, address="auto")
    assert caught.value.hint == "pip install 'zhcache[cluster]'"


@pytest.mark.parametrize("address", ["local", "", "auto"])
def test_ray_is_never_started_by_accident(monkeypatch, address):
    ray = ModuleType("ray")
    ray.is_initialized = lambda: False
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(UsageError, match="would start Ray"):
        cluster.serve("org/a", address=address)


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_cluster_is_not_even_asked_without_a_token(monkeypatch, mode):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(NotPermitted, match="token"):
        cluster.serve("org/a")


def test_without_an_address_this_machines_daemon_makes_them(tmp_path, monkeypatch, pipeline_dir):
    with DaemonSimulator(tmp_path / "api.sock") as simulator:
        monkeypatch.setenv("ZHCACHE_SOCKET", str(simulator.socket))
        simulator.hold("org/pipe", pipeline_dir)
        made = cluster.generate("org/pipe", PROMPTS, out=tmp_path / "out", width=4, height=4)
    assert [one.seed for one in made] == list(range(12))
    assert len(simulator.worker.requests) == 1
    assert simulator.worker.requests[0].revision == made[0].commit
