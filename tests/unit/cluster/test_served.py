"""What calls a cluster goes on to what is served there instead; it never waits for what is gone."""

from types import SimpleNamespace

import pytest

from harness.paintkit import task
from zhcache import errors
from zhcache.cluster import served
from zhcache.cluster.settings import bounds
from zhcache.cluster.task import Picture

PICTURE = {
    "mode": "RGB", "size": (1, 1), "pixels": b"abc", "commit": "c" * 40,
    "node": "n", "seconds": 1.0, "nsfw": False,
}  # fmt: skip


def app(since, running=1):
    node = SimpleNamespace(replica_states={"RUNNING": running})
    return SimpleNamespace(last_deployed_time_s=since, deployments={"node": node})


class Response:
    """Answers; or waits as Serve's does for an application that is gone: without end."""

    def __init__(self, answers):
        self.answers = answers
        self.is_cancelled = False

    def result(self, timeout_s):
        assert timeout_s is not None, "without end"
        answer = self.answers.pop(0) if self.answers else TimeoutError()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def cancel(self):
        self.is_cancelled = True


class Site:
    """A cluster: what it serves, and what is said to whom calls it."""

    def __init__(self):
        self.apps = {"zhcache-old": app(1.0)}
        self.answers = {"zhcache-old": [], "zhcache-new": [{"picture": PICTURE}]}
        self.responses = []

    def handle(self, name):
        def remote(**_):
            self.responses.append(Response(self.answers[name]))
            return self.responses[-1]

        return SimpleNamespace(make=SimpleNamespace(remote=remote))


@pytest.fixture
def site(monkeypatch):
    made = Site()
    monkeypatch.setattr(served, "applications", lambda: dict(made.apps))
    monkeypatch.setattr(served, "handle_of", made.handle)
    monkeypatch.setattr(served, "_LOOK_S", 0.0)
    return made


@pytest.fixture
def calls(site):
    return served.Served("zhcache-old", site.handle("zhcache-old"), 4, 2)


def test_answer_that_takes_its_time_is_waited_for(site, calls):
    site.answers["zhcache-old"] += [TimeoutError(), TimeoutError(), {"picture": PICTURE}]
    assert calls.make(task()) == Picture(**PICTURE)


def test_call_of_what_was_replaced_is_lost_and_the_next_goes_to_its_heir(site, calls):
    site.apps = {"zhcache-new": app(2.0)}
    with pytest.raises(errors.DaemonUnreachable, match="replaced"):
        calls.make(task())
    assert site.responses[0].is_cancelled
    assert calls.make(task()) == Picture(**PICTURE)
    assert calls.name == "zhcache-new"


def test_call_that_serve_refused_for_what_is_gone_looks_for_its_heir_too(site, calls, monkeypatch):
    monkeypatch.setattr(served, "_SOON_S", 0.0)
    gone = type("DeploymentUnavailableError", (Exception,), {"__module__": "ray.serve.exceptions"})
    site.answers["zhcache-old"].append(gone("deleted"))
    site.apps = {"zhcache-new": app(2.0)}
    with pytest.raises(errors.DaemonUnreachable):
        calls.make(task())
    assert calls.make(task()) == Picture(**PICTURE)


def test_what_is_served_on_no_node_is_waited_for_as_for_room(site, calls):
    site.apps = {"zhcache-old": app(1.0, running=0)}
    with pytest.raises(errors.Busy, match="no node"):
        calls.make(task())


def test_timeout_within_a_call_is_its_error_and_not_waited_for(site, calls):
    names = {"__module__": "ray.exceptions"}
    within = type("RayTaskError(TimeoutError)", (type("RayTaskError", (TimeoutError,), names),), {})
    site.answers["zhcache-old"].append(within("ray::f()\nTimeoutError: the daemon was silent"))
    with pytest.raises(errors.ZhcacheError, match="the daemon was silent"):
        calls.make(task())


def test_call_that_comes_after_the_end_is_cancelled(site, calls):
    site.answers["zhcache-old"].append({"picture": PICTURE})
    calls.close()
    calls.make(task())
    assert site.responses[0].is_cancelled


def test_what_was_served_last_is_called():
    assert served.newest({"zhcache-a": app(3.0), "zhcache-b": app(4.0)}) == "zhcache-b"
    assert served.newest({}) is None


@pytest.mark.parametrize(
    ("nodes", "there", "wanted"),
    [(None, 3, (3, 3)), (2, 3, (2, 2)), ((1, 9), 3, (1, 9))],
)
def test_replicas_are_as_many_as_nodes_unless_told(nodes, there, wanted):
    assert bounds(nodes, there) == wanted


@pytest.mark.parametrize(("nodes", "there"), [(4, 3), ((4, 9), 3), (None, 0)])
def test_replicas_that_would_be_waited_for_without_end_are_refused(nodes, there):
    with pytest.raises(errors.UsageError, match="node"):
        bounds(nodes, there)
