"""What ``plan`` is called with: refused here with what it takes, before anything is asked."""

import pytest

import zhcache
from zhcache.errors import UsageError

WRONG = {
    "no name": {"repo": 5},
    "variant": {"variant": 5},
    "revision": {"revision": b"main"},
    "devices": {"devices": 2},
    "a device": {"devices": ["cuda:0", 1]},
    "one side": {"size": (512,)},
    "a number": {"size": 512},
    "text": {"size": "512x512"},
    "batch": {"batch": True},
    "seen": {"seen": 5},
    "seen by area": {"seen": {4096: 1}},
    "nothing seen": {"seen": {(64, 64): 0}},
    "less than nothing": {"seen": {(64, 64): -1}},
    "no memory": {"host_memory": 0},
    "memory in words": {"host_memory": "much"},
    "more than there is": {"seen": {(64, 64): 2**63}},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_what_cannot_be_meant_is_refused_by_name_before_the_daemon_is_asked(tmp_path, given):
    (name,) = given
    with zhcache.Client(tmp_path / "nobody.sock") as client, pytest.raises(UsageError) as refused:
        client.plan(**{"repo": "org/pipe", **given})
    assert str(refused.value).startswith(f"{name}=")
    assert refused.value.hint.startswith("it takes ")
