"""Who needs libtorrent, and what is said where it is not there."""

import pytest

from harness.storekit import open_store
from zhcache.errors import UsageError
from zhcached.clock import SystemClock
from zhcached.config import SwarmConfig
from zhcached.swarm import tier
from zhcached.swarm.tier import take_part

LISTENS = SwarmConfig(enabled=True, listen="127.0.0.2:0", networks=("127.0.0.0/8",))


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store", SystemClock())
    yield opened
    opened.close()


def test_without_libtorrent_a_swarm_is_an_error_that_says_what_to_install(store, monkeypatch):
    monkeypatch.setattr(tier, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="needs libtorrent") as refused:
        take_part(LISTENS, store, [], SystemClock())
    assert "zhcache[swarm]" in str(refused.value.hint)
    own, swarm = take_part(SwarmConfig(enabled=True), store, [], SystemClock())
    assert (own.port, swarm) == (0, None)


def test_swarm_that_is_off_makes_nothing(store):
    assert take_part(SwarmConfig(), store, [], SystemClock()) == (None, None)
    assert not (store.layout.root / "swarm").exists()
