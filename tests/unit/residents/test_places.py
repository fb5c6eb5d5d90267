from hypothesis import given
from hypothesis import strategies as st

from zhcached.residency.resident.admission import Admit, LetGo, Place, Wait, plan


def place(name, *, bytes=10, device="cpu", used=0.0, idle=True, kept=False, ending=False):
    return Place(name, {device: bytes}, f"holder {name}", used, idle, kept, ending)


def decide(*places, need=10, room=100, workers=10, device="cpu", spare=0):
    return plan(
        places,
        device=device,
        need_bytes=need,
        room_bytes=room,
        workers=workers,
        spare_bytes=spare,
    )


def test_place_that_is_free_is_given():
    assert decide(place(1), need=90) == Admit()


def test_longest_unused_goes_first_and_no_more_than_need_to():
    decided = decide(place(1, used=5), place(2, used=3), place(3, used=4), room=30)
    assert decided == LetGo((2,))


def test_what_somebody_keeps_warm_goes_last():
    assert decide(place(1, used=1, kept=True), place(2, used=9), room=20) == LetGo((2,))


def test_what_ends_already_is_waited_for_before_another_is_ended():
    assert decide(place(1, used=1), place(2, used=9, ending=True), room=20) == LetGo((2,))


def test_who_is_at_work_is_never_ended_and_is_named():
    assert decide(place(1, idle=False), place(2, idle=True), room=15) == Wait(("holder 1",))


def test_other_devices_bytes_do_not_matter_and_their_places_do():
    other = place(1, device="GPU-1", bytes=1000)
    assert decide(other, need=100) == Admit()
    assert decide(other, need=100, workers=1) == LetGo((1,))


def test_arenas_that_nobody_has_go_before_an_idle_worker_and_after_one_that_ends():
    assert decide(place(1), room=15, spare=9) == LetGo((), 5)
    assert decide(place(1, bytes=15), room=15, spare=9) == LetGo((1,), 9)
    assert decide(place(1, ending=True), place(2), room=20, spare=9) == LetGo((1,), 0)
    assert decide(place(1, idle=False), room=10, spare=9) == Wait(("holder 1",))


places_ = st.builds(
    place,
    st.integers(),
    bytes=st.integers(0, 50),
    device=st.sampled_from(["cpu", "GPU-1"]),
    used=st.floats(0, 10),
    idle=st.booleans(),
    kept=st.booleans(),
    ending=st.booleans(),
)


@given(
    st.lists(places_, max_size=8, unique_by=lambda p: p.name),
    st.integers(0, 60),
    st.integers(60, 120),
    st.integers(1, 8),
    st.integers(0, 60),
)
def test_plan_never_ends_who_works_and_frees_enough(there, need, room, workers, spare):
    decided = decide(*there, need=need, room=room, workers=workers, spare=spare)
    if isinstance(decided, LetGo):
        assert 0 <= decided.bytes <= spare
        room += decided.bytes
    going = set(decided.names) if isinstance(decided, LetGo) else set()
    assert all(p.is_idle or p.is_ending for p in there if p.name in going)
    left = [p for p in there if p.name not in going]
    used = sum(p.takes.get("cpu", 0) for p in left)
    fits = used + need <= room and len(left) < workers
    assert fits != isinstance(decided, Wait)
    if isinstance(decided, Wait):
        idle_gone = [p for p in there if not (p.is_idle or p.is_ending)]
        rest = sum(p.takes.get("cpu", 0) for p in idle_gone)
        assert rest + need > room + spare or len(idle_gone) >= workers


def test_worker_on_two_devices_counts_on_both_and_is_one_worker():
    both = Place(1, {"GPU-1": 60, "GPU-2": 60}, "holder 1", 0.0, is_idle=True)
    for device in both.takes:
        assert decide(both, device=device, need=50) == LetGo((1,))
        assert decide(both, device=device, need=40) == Admit()
    assert decide(both, device="GPU-3", need=100, workers=2) == Admit()


def test_worker_takes_of_each_device_what_it_has_there():
    split = Place(1, {"GPU-1": 60, "GPU-2": 20}, "holder 1", 0.0, is_idle=False)
    assert decide(split, device="GPU-1", need=50) == Wait(("holder 1",))
    assert decide(split, device="GPU-2", need=80) == Admit()
