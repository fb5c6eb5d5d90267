"""What is made again: what failed for its place. What is not: what would fail anywhere."""

import pytest

from zhcache import errors
from zhcache.cluster.retry import FULL, LOST, TRIES, is_taken, meant, verdict


def of_ray(name, *bases):
    return type(name, bases or (Exception,), {"__module__": "ray.exceptions"})


@pytest.mark.parametrize(
    ("error", "judged"),
    [
        (errors.DaemonUnreachable("gone"), "again"),
        (errors.WorkerDied("killed"), "again"),
        (errors.VersionMismatch("that node's daemon is an old one"), "again"),
        (errors.Busy("full"), "later"),
        (errors.UsageError("no such argument"), "give up"),
        (errors.NoSpace("too large"), "give up"),
        (errors.NotFound("no such model"), "give up"),
        (errors.Cancelled("ended"), "give up"),
        (errors.ZhcacheError("what is not known"), "give up"),
    ],
)
def test_verdict(error, judged):
    assert verdict(error, 1) == judged


def test_tries_end_but_waiting_for_room_is_none():
    assert verdict(errors.DaemonUnreachable("gone"), TRIES) == "give up"
    assert verdict(errors.Busy("full"), 1000) == "later"


def test_rays_errors_are_known_by_name_and_by_ancestry():
    lost = of_ray("ActorDiedError", of_ray("RayActorError"))
    mixed = type("RayTaskError(ActorDiedError)", (of_ray("RayTaskError"), lost), {})
    assert isinstance(meant(lost("dead")), errors.DaemonUnreachable)
    assert isinstance(meant(mixed("dead")), errors.DaemonUnreachable)
    assert isinstance(meant(of_ray("BackPressureError")("full")), errors.Busy)


def test_error_of_the_same_name_from_elsewhere_is_not_rays():
    told = meant(type("ActorDiedError", (Exception,), {})("x\ny"))
    assert type(told) is errors.ZhcacheError
    assert told.message == "the cluster failed: ActorDiedError: x"


def test_what_user_code_raised_is_the_end_of_its_traceback():
    told = meant(of_ray("RayTaskError")("ray::f()\n  File x\nTypeError: no such argument"))
    assert told.message == "the cluster failed: RayTaskError: TypeError: no such argument"


def test_our_own_errors_are_themselves():
    mine = errors.NotFound("no such model")
    assert meant(mine) is mine


def test_ray_has_errors_of_these_names():
    ray = pytest.importorskip("ray")
    from ray.serve import exceptions

    assert is_taken(ray.exceptions.ActorAlreadyExistsError("taken"))
    assert isinstance(ray.exceptions.GetTimeoutError("slow"), TimeoutError)
    for name in LOST | FULL:
        assert hasattr(ray.exceptions, name) or hasattr(exceptions, name), name
