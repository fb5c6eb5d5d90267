from hypothesis import given
from hypothesis import strategies as st

from zhcached.residency.pages.room import Claim, Full, Room, TooLarge, make_room


def claim(key, used=0.0, **fields):
    files = fields.pop("files", {key: 10})
    return Claim(key, files, used, **fields)


def test_nothing_goes_while_there_is_room():
    assert make_room([claim("a")], {"new": 10}, 20) == Room([])


def test_longest_unused_goes_first():
    assert make_room([claim("a", 2), claim("b", 1), claim("c", 3)], {"new": 20}, 40) == Room(["b"])


def test_what_is_kept_for_ever_goes_last():
    claims = [claim("a", 1, is_forever=True), claim("b", 2)]
    assert make_room(claims, {"new": 10}, 20) == Room(["b"])
    assert make_room(claims, {"new": 20}, 20) == Room(["b", "a"])


def test_what_is_in_use_never_goes_and_its_users_are_named():
    claims = [claim("a", 1, holders=("process 7 of uid 1",)), claim("b", 2)]
    assert make_room(claims, {"new": 20}, 20) == Full(["process 7 of uid 1"])


def test_too_large_for_all_of_it_lets_nothing_go():
    assert make_room([claim("a")], {"new": 21}, 20) == TooLarge(21)


def test_shared_files_count_once():
    shared = [claim("a", 1, files={"x": 10}), claim("b", 2, files={"x": 10})]
    assert make_room(shared, {"x": 10, "y": 10}, 20) == Room([])


@given(
    st.lists(
        st.builds(
            Claim,
            key=st.uuids(),
            files=st.dictionaries(st.sampled_from("abcdef"), st.just(7), max_size=4),
            used=st.floats(0, 100),
            is_forever=st.booleans(),
            holders=st.sampled_from([(), ("somebody",)]),
        )
    ),
    st.dictionaries(st.sampled_from("defghi"), st.just(7), max_size=4),
    st.integers(0, 80),
)
def test_what_stays_fits_and_what_is_used_stays(claims, wanted, capacity):
    match make_room(claims, wanted, capacity):
        case Room(gone):
            stays = [c for c in claims if c.key not in gone]
            assert all(c in stays for c in claims if c.holders)
            assert 7 * len(set(wanted).union(*[c.files for c in stays])) <= capacity
        case Full():
            used = [c.files for c in claims if c.holders]
            assert 7 * len(set(wanted).union(*used)) > capacity
        case TooLarge(size):
            assert size > capacity
