"""What a worker may say, in which order: a table of conversations."""

import json

import msgspec
import pytest

from zhcache.protocol.conversion import (
    CHUNK,
    MAX_SMALL,
    Begin,
    Chunk,
    Convert,
    Discard,
    End,
    Finished,
    Part,
    Same,
    Small,
    Source,
    TensorError,
    Worked,
)
from zhcache.protocol.frames import FrameError
from zhcached.convert import account
from zhcached.convert.account import GROWTH, SLACK, Account

A, B = "a-1.safetensors", "b-2.safetensors"
INDEX = "model.safetensors.index.json"


def request(scheme="fp16", **more):
    return Convert(
        folder="/base", component="unet", library="diffusers", class_name="UNet",
        part=Part(scheme=scheme), weights=[Source(path=A, size=100), Source(path=B, size=50)],
        index=INDEX, **more,
    )  # fmt: skip


def told(count=1, name="w"):
    one = TensorError(
        name=name, dtype_in="F32", dtype_out="F16", max_abs=0.0, relative=0.0,
        nonfinite_in=0, overflow=0, bytes=1,
    )  # fmt: skip
    return [one] * count


def whole(path, *sizes):
    chunks = [Chunk(size=size) for size in sizes]
    return [Begin(path=path, size=sum(sizes)), *chunks, End(path=path, tensors=told())]


def dropped(path):
    return Discard(path=path, reason="too large for float16")


def index(*names):
    text = json.dumps({"weight_map": {str(n): name for n, name in enumerate(names)}})
    return Small(path=INDEX, content=text)


def heard(events, asked=None):
    kept = Account(asked or request())
    for event in events:
        kept.take(event)
    return kept


def test_honest_conversation():
    kept = heard(
        [
            *whole(A, 30, 20),
            Worked(bytes_done=100),
            *whole(B, 25),
            index(A, B),
            Small(path="config.json", content="{}"),
            Worked(bytes_done=150),
            Finished(kept={"norm": "asked"}),
        ],
        request("int8"),
    )
    assert set(kept.tensors) == {A, B}
    assert set(kept.small) == {INDEX, "config.json"}
    assert kept.finished.kept == {"norm": "asked"}
    assert kept.bytes_done == 150


def test_files_that_need_no_change_count_as_there():
    assert heard([Same(path=A), *whole(B, 1), index(A, B), Finished()]).same == {A}


def test_outputs_have_their_plain_names_and_sources_their_own():
    asked = request(rename={A: "x", B: "y", INDEX: "z"})
    events = [*whole("x", 5), Same(path=B), Small(path="z", content=index("x", "y").content)]
    assert heard([*events, Finished()], asked).finished is not None
    for wrong in ([*whole(A, 5)], [Same(path="y")], [index("x", "y")]):
        with pytest.raises(FrameError):
            heard(wrong, asked)


@pytest.mark.parametrize(
    "events",
    [
        [Begin(path=A, size=9), Chunk(size=4), dropped(A), *whole(A, 7)],
        [*whole(A, 9), dropped(A), *whole(A, 7)],
        [*whole(A, 9), Begin(path=B, size=3), dropped(B), dropped(A), *whole(A, 7)],
    ],
    ids=["begun", "ended", "one after the other"],
)  # fmt: skip
def test_discarded_files_come_again(events):
    assert heard([*events, *whole(B, 1), index(A, B), Finished()]).finished is not None
    with pytest.raises(FrameError, match="missing"):
        heard([*events, dropped(A), *whole(B, 1), Finished()])


CONFIG = Small(path="config.json", content="{}")


@pytest.mark.parametrize(
    ("scheme", "said", "answer"),
    [
        ("fp16", [], INDEX),
        ("fp16", [CONFIG], "as text"),
        ("int8", [index(A, B)], "config.json"),
        ("int8", [CONFIG], INDEX),
        ("int8", [index(A, B), index(A, B)], "as text"),
        ("int8", [CONFIG, CONFIG], "as text"),
    ],
    ids=str,
)
def test_what_describes_the_weights_comes_where_it_has_to_and_once(scheme, said, answer):
    with pytest.raises(FrameError, match=answer):
        heard([*whole(A, 5), Same(path=B), *said, Finished()], request(scheme))


def test_what_ended_and_was_discarded_takes_room_all_the_same():
    size = (GROWTH * 150 + SLACK) // 2
    parts = [CHUNK] * (size // CHUNK) + [size % CHUNK]
    heard([*whole(A, *parts), dropped(A)] * 2)
    with pytest.raises(FrameError, match="again and again"):
        heard([*whole(A, *parts), dropped(A)] * 3)


def test_room_of_what_was_discarded_comes_back():
    size = GROWTH * 150 + SLACK
    heard([Begin(path=A, size=size), dropped(A), Begin(path=A, size=size)])
    with pytest.raises(FrameError, match="is to have"):
        heard([Begin(path=A, size=size + 1)])
    with pytest.raises(FrameError, match="is to have"):
        heard([*whole(A, 9), Begin(path=B, size=size - 8)])


BEGUN = [Begin(path=A, size=10)]


@pytest.mark.parametrize(
    "events",
    [
        [Begin(path="../a", size=1)],
        [Begin(path="/a", size=1)],
        [Begin(path="config.json", size=1)],
        [Begin(path=INDEX, size=1)],
        [Begin(path=A, size=0)],
        [Begin(path=A, size=-5)],
        [*BEGUN, Begin(path=B, size=1)],
        [*whole(A, 5), Begin(path=A, size=5)],
        [Same(path=A), Begin(path=A, size=5)],
        [Chunk(size=1)],
        [*BEGUN, Chunk(size=11)],
        [*BEGUN, Chunk(size=0)],
        [*BEGUN, Chunk(size=-1)],
        [*BEGUN, Chunk(size=10), Chunk(size=1)],
        [Begin(path=A, size=2 * CHUNK), Chunk(size=CHUNK + 1)],
        [*BEGUN, End(path=A, tensors=[])],
        [*BEGUN, Chunk(size=10), End(path=B, tensors=[])],
        [End(path=A, tensors=[])],
        [dropped(A)],
        [*BEGUN, dropped(B)],
        [*whole(A, 5), *whole(B, 5)[:1], dropped(A)],
        [Same(path="c")],
        [Same(path="config.json")],
        [Same(path=A), Same(path=A)],
        [*whole(A, 5), Same(path=A)],
        [*BEGUN, Same(path=B)],
        [Small(path="other.json", content="{}")],
        [Small(path="../config.json", content="{}")],
        [Small(path="config.json", content="[]")],
        [Small(path="config.json", content="{")],
        [Small(path="config.json", content="[" * 5000)],
        [Small(path="config.json", content=" " * (MAX_SMALL + 1))],
        [*BEGUN, Small(path="config.json", content="{}")],
        [Small(path=INDEX, content=" " * (MAX_SMALL + 1))],
        [*BEGUN, index(A, B)],
        [index(A)],
        [index(A, B, "c")],
        [Small(path=INDEX, content='{"weight_map": {"a": ["b"]}}')],
        [Small(path=INDEX, content="{}")],
        [Finished()],
        [*whole(A, 5), Finished()],
        [*whole(A, 5), *BEGUN[:0], Begin(path=B, size=1), Finished()],
    ],
    ids=str,
)
def test_what_may_not_be_said_ends_it(events):
    *before, last = events
    kept = heard(before, request("int8"))
    with pytest.raises(FrameError):
        kept.take(last)


def test_progress_stays_within_what_is_read():
    assert heard([Worked(bytes_done=10**12)]).bytes_done == 150
    assert heard([Worked(bytes_done=-1)]).bytes_done == 0


def test_conversation_without_end_is_ended(monkeypatch):
    with pytest.raises(FrameError, match="come to an end"):
        heard([Worked(bytes_done=1)] * (account.MAX_IDLE + 1))
    monkeypatch.setattr(account, "MAX_CHUNKS", -(SLACK // (64 * 2**10)) + 5)
    with pytest.raises(FrameError, match="come to an end"):
        heard([Begin(path=A, size=100), *[Chunk(size=1)] * 20])


def test_discards_and_tensors_are_counted(monkeypatch):
    with pytest.raises(FrameError, match="tensor"):
        heard([Begin(path=A, size=1), Chunk(size=1), End(path=A, tensors=told(name="w" * 2000))])
    with pytest.raises(FrameError, match="discards more"):
        heard([*BEGUN, dropped(A)] * (account.MAX_DISCARDS + 1))
    monkeypatch.setattr(account, "MAX_TENSORS", 10)
    with pytest.raises(FrameError, match="tensors"):
        heard([Begin(path=A, size=1), Chunk(size=1), End(path=A, tensors=told(11))])


@pytest.mark.parametrize(
    "said",
    [
        {"overflow": 2**63},
        {"bytes": 10**4000},
        {"nonfinite_in": -1},
        {"max_abs": -0.5},
        {"relative": -1.0},
        {"dtype_in": "F" * 2000},
    ],
    ids=lambda said: next(iter(said)),
)
def test_what_is_told_of_a_tensor_can_be(said):
    tensors = [msgspec.structs.replace(told()[0], **said)]
    with pytest.raises(FrameError, match="cannot be"):
        heard([Begin(path=A, size=1), Chunk(size=1), End(path=A, tensors=tensors)])


def test_what_is_told_of_all_is_bounded(monkeypatch):
    done = [*whole(A, 5), Same(path=B), index(A, B)]
    for told_of in ({"tools": {"t": "1" * 2000}}, {"kept": {"k" * 2000: "asked"}}):
        with pytest.raises(FrameError, match="more than there is to say"):
            heard([*done, Finished(**told_of)])
    with pytest.raises(FrameError, match="tools"):
        heard([*done, Finished(tools={str(n): "1" for n in range(account.MAX_TOOLS + 1)})])
    monkeypatch.setattr(account, "MAX_WORDS", 20)
    heard([*whole(A, 5), dropped(A)] * 10)
    with pytest.raises(FrameError, match="more than there is to say"):
        heard([*done, Finished(kept={"k" * 10: "asked"})])
