"""Which cores a worker keeps to, and that its threads stay as many as they were."""

import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from zhcached.workers.cores import keep_to_share, share


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(1, 20))
def test_shares_are_even_and_together_all_cores(cores, parts):
    shares = [share(cores, part, parts) for part in range(parts)]
    assert all(shares)
    assert set.union(*shares) == cores or parts > len(cores)
    sizes = [len(each) for each in shares]
    assert max(sizes) - min(sizes) <= 1
    if parts <= len(cores):
        assert sum(sizes) == len(cores)


def test_worker_keeps_to_its_share_and_its_number_of_threads():
    import torch

    seen = []

    def work():
        torch.set_num_threads(3)
        mine = os.sched_getaffinity(0)
        keep_to_share(1, 2)
        seen.append((mine, os.sched_getaffinity(0), torch.get_num_threads()))

    before = torch.get_num_threads()
    # A thread's affinity is its own, and ends with it.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    ((mine, kept, threads),) = seen
    assert (kept, threads) == (share(mine, 1, 2), 3)
