from zhcached.fetch.ramp import FULL_LINE_BYTES_PER_S, RAMP_S, Ramp

BEGAN = 5000.0


def test_ramp_asks_for_one_more_at_the_end_of_each_slow_stretch():
    ramp = Ramp()
    assert [ramp.wants_more(1000, BEGAN + step * RAMP_S / 2) for step in range(6)] == [
        False, False, True, False, True, False,
    ]  # fmt: skip


def test_ramp_asks_for_none_while_the_line_is_full():
    ramp = Ramp()
    ramp.wants_more(1, BEGAN)
    full = int(FULL_LINE_BYTES_PER_S * RAMP_S)
    assert not ramp.wants_more(full, BEGAN + RAMP_S)
    assert ramp.wants_more(full - 1, BEGAN + 2 * RAMP_S)
