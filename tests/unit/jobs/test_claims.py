import threading

import pytest

from zhcache.errors import Cancelled
from zhcached.jobs.fetching.claims import Claims


def test_claim_waits_for_its_holder_and_for_no_other():
    claims, order = Claims(), []
    inside, leave = threading.Event(), threading.Event()

    def first():
        with claims.hold("a", lambda: None):
            inside.set()
            leave.wait(10)
            order.append("first")

    def second():
        with claims.hold("a", lambda: None):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait(10)
    with claims.hold("b", lambda: None):
        threads[1].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


def test_claim_is_given_up_when_the_waiter_is_to_end():
    claims = Claims()

    def check():
        raise Cancelled("over")

    with claims.hold("a", lambda: None), pytest.raises(Cancelled), claims.hold("a", check):
        raise AssertionError("two hold it")
    with claims.hold("a", check):
        pass
