"""The gateway as a whole: what it begins with, and what it does when that fails."""

import asyncio
import socket

import pytest

from demohub.hub import Hub
from harness.gatewaykit import FILES, REPO, Front
from zhcache.errors import Busy, UsageError
from zhcache.protocol.gateway import GatewayRequest
from zhcached.config import ServeConfig
from zhcached.gateway.gateway import Gateway

ANY = "127.0.0.1:0"


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        with Front(tmp_path_factory.mktemp("restore"), [hub]) as front:
            yield front


@pytest.fixture
def gateway(front):
    made = []

    def make(environ=None, **config):
        gateway = Gateway(
            front.pulls, front.store, ServeConfig(**config), front.clock, environ or {}
        )
        made.append(gateway)
        return gateway

    yield make
    for gateway in made:
        gateway.stop()


def test_the_configuration_has_it_serve_from_the_start(gateway):
    one = gateway({"TOKEN": "t"}, listen=ANY, token_env="TOKEN", rate=1000)
    one.restore()
    state = one.state()
    assert (state.serving, state.detached, state.token, state.rate) == (True, True, True, 1000)


def test_by_default_nothing_is_served(gateway):
    one = gateway()
    one.restore()
    assert one.state().serving is False


def test_what_is_left_on_comes_before_the_configuration(gateway):
    gateway().start(GatewayRequest(listen="[::1]:0", detach=True, rate="5KiB"))
    two = gateway(listen=ANY)
    two.restore()
    assert (two.state().rate, two.state().listen.startswith("[::1]:")) == (5120, True)


def test_what_cannot_be_restored_is_told(gateway, front):
    with socket.create_server(("127.0.0.1", 0)) as other:
        one = gateway(listen=f"127.0.0.1:{other.getsockname()[1]}")
        one.restore()
    assert "another program" in one.state().problem
    two = gateway(listen=ANY, token_env="NOT_THERE")
    two.restore()
    assert "NOT_THERE" in two.state().problem
    kept = front.store.layout.root / "gateway.json"
    kept.write_text("{")
    three = gateway()
    three.restore()
    assert "gateway.json" in three.state().problem
    three.stop()
    assert (kept.exists(), three.state().problem) == (False, "")


def test_what_could_not_be_restored_is_tried_again(gateway, monkeypatch):
    monkeypatch.setattr("zhcached.gateway.gateway.AGAIN_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        one = gateway(listen=f"127.0.0.1:{other.getsockname()[1]}")
        one.restore()
    assert not one.state().serving
    asyncio.run(one.run())
    assert (one.state().serving, one.state().problem) == (True, "")


def test_what_is_not_wanted_any_more_is_not_tried_again(gateway, monkeypatch):
    monkeypatch.setattr("zhcached.gateway.gateway.AGAIN_S", 0.0)
    for end in (Gateway.stop, Gateway.close, lambda one: one.start(GatewayRequest(listen=ANY))):
        one = gateway(listen=ANY, token_env="NOT_THERE")
        one.restore()
        assert "NOT_THERE" in one.state().problem
        one._environ = {"NOT_THERE": "here by now"}
        end(one)
        was = one.state()
        asyncio.run(one.run())
        assert (one.state().serving, one.state().listen) == (was.serving, was.listen)


def test_the_daemons_end_leaves_on_what_was_left_on(gateway):
    one = gateway()
    one.start(GatewayRequest(listen=ANY, detach=True))
    one.close()
    two = gateway()
    two.restore()
    assert two.state().serving


def test_only_its_own_serving_is_ended(gateway):
    one = gateway()
    first = one.start(GatewayRequest(listen=ANY))
    with pytest.raises(Busy):
        one.start(GatewayRequest(listen=ANY))
    one.stop(first)
    second = one.start(GatewayRequest(listen=ANY))
    one.stop(first)
    assert one.is_on(second)


def test_a_certificate_that_cannot_be_read(gateway, tmp_path):
    with pytest.raises(UsageError, match="certificate"):
        gateway(certificate=str(tmp_path / "none"), key="k").start(GatewayRequest(listen=ANY))


def test_all_addresses_are_told_as_one_that_others_can_use(gateway):
    one = gateway()
    one.start(GatewayRequest(listen=":0"))
    assert one.state().listen.startswith("0.0.0.0:")
    assert "0.0.0.0" not in one.state().url
