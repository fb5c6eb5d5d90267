import socket

import pytest

from harness.storekit import Clock
from simulators.scripted import Scripted, plain
from zhcached.transport import pool as pool_module
from zhcached.transport.address import AddressPolicy, Origin
from zhcached.transport.http import Target, Transport
from zhcached.transport.pool import Pool
from zhcached.transport.wire import Wire


def origin(number):
    return Origin("https", f"h{number}.example", 443)


@pytest.fixture
def peers():
    opened = []
    yield opened
    for peer in opened:
        peer.close()


def wire(peers, clock):
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    peers.append(theirs)
    return Wire(ours, clock)


def is_closed(peer):
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False


def test_pool_keeps_at_most_64_connections_of_all_origins_and_drops_the_oldest(peers):
    clock = Clock()
    pool = Pool(clock)
    for number in range(300):
        pool.give(origin(number), wire(peers, clock), reusable=True)
    assert len(pool) == 64
    assert [is_closed(peer) for peer in peers] == [True] * 236 + [False] * 64
    pool.close()
    assert all(map(is_closed, peers))


def test_pool_keeps_at_most_16_connections_of_one_origin(peers):
    clock = Clock()
    pool = Pool(clock)
    pool.give(origin(1), wire(peers, clock), reusable=True)
    for _ in range(20):
        pool.give(origin(2), wire(peers, clock), reusable=True)
    assert [is_closed(peer) for peer in peers] == [False] + [True] * 4 + [False] * 16
    pool.close()


@pytest.mark.parametrize("reusable", [True, False])
def test_pool_closes_connections_of_any_origin_once_they_waited_too_long(peers, reusable):
    clock = Clock()
    pool = Pool(clock)
    for number in range(3):
        pool.give(origin(number), wire(peers, clock), reusable=True)
        clock.pass_s(10)
    clock.pass_s(5)
    pool.give(origin(9), wire(peers, clock), reusable=reusable)
    assert [is_closed(peer) for peer in peers] == [True, False, False, not reusable]
    pool.close()


def test_pool_gives_the_connection_used_last_and_never_a_stale_one(peers):
    clock = Clock()
    pool = Pool(clock)
    first, second = wire(peers, clock), wire(peers, clock)
    pool.give(origin(1), first, reusable=True)
    pool.give(origin(1), second, reusable=True)
    assert pool.take(origin(2)) is None
    assert pool.take(origin(1)) is second
    clock.pass_s(pool_module.MAX_IDLE_S)
    assert pool.take(origin(1)) is None
    assert [is_closed(peer) for peer in peers] == [True, False]
    second.close()


def test_redirect_chain_over_many_origins_leaves_few_connections():
    with Scripted(lambda _: [plain(b"x")]) as server:
        urls = [f"http://h{number}.example:{server.port}/" for number in range(100)]
        transport = Transport(AddressPolicy.of(urls), resolver=lambda _host, _port: ["127.0.0.1"])
        for url in urls:
            with transport.open(Target(url), read_timeout_s=5) as response:
                response.read_limited(10)
        # Those that were used last are the ones still kept.
        for url in urls[-64:]:
            with transport.open(Target(url), read_timeout_s=5) as response:
                response.read_limited(10)
        assert server.connections == 100
        with transport.open(Target(urls[0]), read_timeout_s=5) as response:
            response.read_limited(10)
        assert server.connections == 101
        transport.close()
