"""The collector is paused inside, and as it was afterwards, whatever happens."""

import gc
import threading

import pytest

from zhcache.pipeline.quick import paused_collector


@pytest.fixture(autouse=True)
def collecting():
    assert gc.isenabled()
    yield
    gc.enable()


def test_collector_is_off_inside_and_on_again_after_an_error():
    with pytest.raises(RuntimeError), paused_collector():
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()


def test_collector_that_was_off_stays_off():
    gc.disable()
    with paused_collector():
        pass
    assert not gc.isenabled()


def test_last_thread_out_turns_it_on():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with paused_collector():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with paused_collector():
        thread.start()
        assert entered.wait(10)
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled()
