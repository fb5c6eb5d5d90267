"""Shared GPU memory that somebody wrote into is filled anew, for those who ask from then on."""

import pytest

from harness.fillkit import GPU
from zhcache.errors import IntegrityError, UsageError


@pytest.fixture
def group(desk):
    desk.renew(share="group")
    return desk


def key_of(found, name="unet"):
    return next(arena.key for arena, _ in found if arena.table.component == name)


def test_damaged_arena_is_filled_anew_and_only_it(group, control):
    lease = group.lease()
    found = group.attach(lease, device=GPU)
    again = group.attach(lease, device=GPU, damaged=[key_of(found)])
    assert key_of(again) == key_of(found)
    assert [start[2:] for start in control.starts] == [["unet", "vae"], ["unet"]]


def test_others_who_map_the_damaged_one_are_counted_until_they_end(group):
    other, lease = group.lease(uid=8), group.lease()
    group.attach(other, uid=8, device=GPU)
    found = group.attach(lease, device=GPU)
    group.attach(lease, device=GPU, damaged=[key_of(found)])
    assert group.arenas.bytes_on(GPU) == 7000
    group.release(other)
    assert group.arenas.bytes_on(GPU) == 4000


def test_one_who_found_the_old_one_damaged_gets_the_new_one(group, control):
    first, second = group.lease(), group.lease(uid=8)
    found = group.attach(first, device=GPU)
    group.attach(second, uid=8, device=GPU)
    group.attach(first, device=GPU, damaged=[key_of(found)])
    group.attach(second, uid=8, device=GPU, damaged=[key_of(found)])
    assert len(control.starts) == 2


def test_damage_right_after_a_refill_is_an_error_that_says_what_to_do(group, clock, control):
    lease = group.lease()
    key = key_of(group.attach(lease, device=GPU))
    group.attach(lease, device=GPU, damaged=[key])
    with pytest.raises(IntegrityError, match=r"changed again.*share = \"uid\""):
        group.attach(lease, device=GPU, damaged=[key])
    clock.pass_s(61)
    group.attach(lease, device=GPU, damaged=[key])
    assert len(control.starts) == 3


def test_who_does_not_have_it_cannot_have_it_filled_anew(group, control):
    found = group.attach(device=GPU)
    group.attach(uid=8, device=GPU, damaged=[key_of(found)] * 5)
    assert len(control.starts) == 1


def test_sealed_memory_cannot_be_said_to_be_damaged(group):
    lease = group.lease()
    found = group.attach(lease)
    with pytest.raises(UsageError, match="cannot have been damaged"):
        group.attach(lease, damaged=[key_of(found)])
