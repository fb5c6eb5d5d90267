from zhcache.protocol.messages import Resident
from zhcached.residency.uses import merged

SIZES = {("a/b", "c1"): 100}


def row(**fields):
    known = {
        "repo": "a/b", "commit": "c1", "variant": None, "device": "cpu", "bytes": 60,
        "leases": 0, "uid": 7, "expires": 5.0,
    }  # fmt: skip
    return Resident(**{**known, **fields})


def test_lease_alone_is_a_row_without_an_end():
    (shown,) = merged([], [], {("a/b", "c1", 7): 2}, SIZES)
    assert (shown.leases, shown.bytes, shown.expires, shown.device) == (2, 100, None, "cpu")


def test_lease_of_whoever_keeps_it_is_counted_in_that_row():
    (shown,) = merged([row()], [], {("a/b", "c1", 7): 2}, SIZES)
    assert (shown.leases, shown.bytes, shown.expires) == (2, 60, 5.0)


def test_lease_of_another_user_is_a_row_of_its_own():
    shown = merged([row()], [], {("a/b", "c1", 8): 1}, SIZES)
    assert [(one.uid, one.leases) for one in shown] == [(7, 0), (8, 1)]


def test_what_others_hold_is_listed_beside():
    gpu = row(device="GPU-1", leases=1)
    shown = merged([row()], [gpu], {("a/b", "c1", 7): 1}, SIZES)
    assert [(one.device, one.leases) for one in shown] == [("GPU-1", 1), ("cpu", 1)]
