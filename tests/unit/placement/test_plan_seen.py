"""What calls were seen to take, by a person or by the daemon's workers, and what becomes of it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.placementkit import GIB, machine, weights
from zhcache.errors import NoSpace, fill
from zhcache.placement.activation import Needs, Size
from zhcache.placement.heard import model_of
from zhcache.placement.plan import decide
from zhcache.placement.seen import LEAST, Seen, corrected, learned
from zhcache.protocol.placement import SeenCall

AT = {Size(512, 512): Needs(100, 400, 200), Size(1024, 1024): Needs(400, 1600, 200)}
SMALL, LARGE = AT


def test_what_a_person_says_raises_all_and_lowers_what_takes_most():
    reckoned = AT[LARGE]
    assert corrected(reckoned, [Seen(SMALL, 600)], AT) == Needs(600, 2400, 300)
    # The worst of them counts.
    worst = corrected(reckoned, [Seen(SMALL, 600), Seen(LARGE, 3200)], AT)
    assert worst == Needs(800, 3200, 400)
    # No phase took more than the call did; that a step took less nobody has seen.
    assert corrected(reckoned, [Seen(SMALL, 300)], AT) == Needs(400, 1200, 200)
    assert corrected(reckoned, [Seen(SMALL, 1)], AT) == Needs(400, 800, 200)
    assert corrected(reckoned, [], AT) == reckoned


def reckon(size, *, has_text=True):
    area = size.width * size.height * size.batch // 1024
    step, decode = area + 500 * has_text, 4 * area
    return Needs(step, decode, 300, encode=700)


def bare(size):
    return reckon(size, has_text=False)


def call(side=1024, *, step=1524, decode=4096, **fields):
    return SeenCall(width=side, height=side, step=step, decode=decode, **fields)


def found(*seen, asked=LARGE):
    return learned(asked, seen, reckon, bare)


AS_RECKONED = Needs(1524, 4096, 300, encode=700)


def test_what_workers_saw_corrects_each_phase_by_itself():
    assert found() == (AS_RECKONED, [])
    assert found(call())[0] == AS_RECKONED
    assert found(call(step=3048))[0] == Needs(3048, 4096, 300, encode=700)
    # Its tiles are the same autoencoder's, until they were seen themselves.
    assert found(call(decode=8192))[0] == Needs(1524, 8192, 600, encode=700)
    seen = found(call(decode=8192), call(decode=330, is_tiled=True))[0]
    assert seen == Needs(1524, 8192, 330, encode=700)
    assert found(call(decode=240, is_tiled=True))[0] == Needs(1524, 4096, 240, encode=700)
    # The first step is in what was seen of the encoders.
    assert found(call(encode=20))[0].encode == 700
    assert found(call(encode=900))[0].encode == 900


def test_less_than_reckoned_lowers_it_to_a_half_and_never_for_short_prompts():
    assert found(call(decode=3000))[0] == Needs(1524, 3000, 300, encode=700)
    assert found(call(decode=1))[0].decode == int(4096 * LEAST)
    # 1024 of it are the image's: a prompt of no words takes no more.
    assert found(call(step=1024))[0].step == 1524
    assert found(call(step=768))[0].step == 1524 * 768 // 1024
    assert found(call(step=1))[0].step == int(1524 * LEAST)


def test_a_size_that_was_seen_counts_alone_and_near_ones_in_its_place():
    near, own = call(512, step=3 * 756, decode=1024), call(step=3000)
    assert found(near)[0].step == 3 * 1524
    assert found(near, own) == (Needs(3000, 4096, 300, encode=700), [own])
    # A thumbnail takes what does not grow, a poster what is not needed here.
    assert found(call(256, step=10**6), call(4096, step=10**9)) == (AS_RECKONED, [])
    assert found(own, asked=Size(1024, 1024, 4))[0].step > 4 * 1524
    assert found(own, asked=Size(1024, 1024, 8))[0].step == 8 * 1024 + 500


COUNTS = st.integers(0, 10**5)
CALLS = st.builds(
    call,
    st.sampled_from([64, 512, 1024, 2048]),
    step=COUNTS,
    decode=COUNTS,
    encode=COUNTS,
    batch=st.integers(1, 4),
    is_tiled=st.booleans(),
)


@given(st.lists(CALLS, max_size=6))
def test_no_phase_is_reckoned_below_what_it_was_seen_to_take(seen):
    needs, _ = found(*seen)
    assert needs.step >= LEAST * AS_RECKONED.step
    assert needs.decode >= LEAST * AS_RECKONED.decode
    assert needs.encode >= AS_RECKONED.encode
    for one in seen:
        if (one.width, one.batch) == (1024, 1):
            assert needs.step >= one.step
            assert needs.encode >= one.encode
            assert (needs.decode_tiled if one.is_tiled else needs.decode) >= one.decode


def told(plan):
    return "; ".join(fill(one.template, one.values) for one in plan.reason)


def plan(heard, devices="12GiB", **how):
    model, _ = model_of(heard, None, 1, **how)
    return decide(model, machine(devices))


def test_what_was_seen_changes_the_plan_and_is_told():
    reckoned = weights("lab/sdxl", "sdxl")
    assert plan(reckoned).way.how == "one"
    assert "corrected" not in told(plan(reckoned))
    seen = call(step=GIB, decode=5 * GIB, calls=7)
    taught = msgspec.structs.replace(reckoned, seen=[seen])
    assert plan(taught).way.how == "freed"
    assert "corrected by what was seen at 1024x1024 (calls: 7)" in told(plan(taught, "24GiB"))
    # What a person says counts alone, even nothing.
    assert "seen at" not in told(plan(taught, seen=[]))
    assert plan(taught, seen=[]).way.takes == plan(reckoned).way.takes
    by_hand = plan(taught, seen=[Seen(Size(512, 512), GIB)])
    assert "corrected by what was named for 512x512" in told(by_hand)
    less = msgspec.structs.replace(reckoned, seen=[call(step=GIB // 2, decode=2 * GIB)])
    with pytest.raises(NoSpace):
        decide(model_of(reckoned, None, 1)[0], machine("10GiB"), "single")
    assert decide(model_of(less, None, 1)[0], machine("10GiB"), "single")


def test_films_count_with_the_frames_that_were_reckoned_with():
    heard = weights("lab/wan", "wan")
    own = {"width": 832, "height": 480, "step": 90 * GIB, "decode": 90 * GIB}
    for frames, is_told in ((81, True), (17, False), (1, False)):
        taught = msgspec.structs.replace(heard, seen=[SeenCall(frames=frames, **own)])
        assert ("seen at 832x480" in told(plan(taught, "400GiB"))) is is_told
