"""Trainings: what a step follows from, going on after an end, what is refused."""

import pytest
import torch

from harness.adapterkit import captions, pairs_file
from zhcache.chinese.adapter import checkpoint, student
from zhcache.chinese.adapter import format as described
from zhcache.chinese.adapter.measuring import quality
from zhcache.chinese.adapter.pairs import PairFile, split
from zhcache.chinese.adapter.plan import Plan
from zhcache.chinese.adapter.training import EMPTY, Batches, Pace, Training, rate
from zhcache.errors import IntegrityError, NoSpace, UsageError

STEPS = 100


class Words:
    """A teacher by rule: each position's state is its word's, a pooled one their sum."""

    mask = "prompt_attention_mask"

    def __init__(self):
        self.arguments = {
            "prompt_embeds": described.Argument(length=6, dim=8),
            "pooled_prompt_embeds": described.Argument(length=1, dim=8, kind="pooled"),
            "prompt_attention_mask": described.Argument(length=6, dim=1, kind="mask"),
        }

    def states(self, texts):
        draw = {word: torch.Generator().manual_seed(n) for n, word in enumerate(self.words())}
        vectors = {word: torch.randn(8, generator=one) for word, one in draw.items()}
        states = torch.zeros(len(texts), 6, 8)
        mask = torch.zeros(len(texts), 6, 1)
        for row, text in enumerate(texts):
            for n, word in enumerate(["^", *text.replace(",", " ").replace(":", " ").split()]):
                states[row, n] = vectors[word]
                mask[row, n] = 1
        return {
            "prompt_embeds": states,
            "pooled_prompt_embeds": states.sum(1, keepdim=True),
            "prompt_attention_mask": mask,
        }

    def words(self):
        texts = " ".join(en for en, _ in captions()).replace(",", " ").replace(":", " ")
        return ["^", *dict.fromkeys(texts.split())]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another are slow where other tests run beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def parts(tmp_path):
    return split(PairFile(pairs_file(tmp_path / "pairs.jsonl")), 16, seed=1)


def training(parts, teacher, steps=STEPS):
    torch.manual_seed(0)
    reader = student.new_reader([pair.zh for pair in parts.training], 32, 1)
    made = student.student(reader, teacher, described.Network(layers=1, heads=1, width=32))
    student.measure(made.resampler, teacher, [*(pair.en for pair in parts.training), ""])
    pace = Pace(steps, 32, 5e-3, 0)
    return Training(made, reader, teacher, pace, is_frozen=False, wording=str)


def run(one, parts, until):
    batches = Batches(parts, 32, 0)
    return [float(one.advance(batches.of(one.step))) for _ in range(one.step, until)]


def test_a_student_learns_what_it_was_not_told(parts):
    teacher = Words()
    one = training(parts, teacher)
    before = quality(one.ask, teacher, one.student.resampler, parts.held)
    run(one, parts, STEPS)
    after = quality(one.ask, teacher, one.student.resampler, parts.held)
    assert 0.6 < before.heldout_error < 1.5
    assert before.retrieval <= 0.2
    assert after.heldout_error < 0.2
    assert after.retrieval > 0.8
    assert after.pairs == 16
    # Once in a batch among 32 others, and nothing like them.
    name = "pooled_prompt_embeds"
    wanted = one.student.resampler.normalised(name, teacher.states([EMPTY.en])[name])
    assert (one.ask([EMPTY.zh])[name] - wanted).square().mean() < 0.3 * wanted.square().mean()


def test_going_on_from_a_checkpoint_is_going_on(parts, tmp_path):
    teacher = Words()
    whole = training(parts, teacher)
    losses = run(whole, parts, 12)
    first = training(parts, teacher)
    run(first, parts, 5)
    checkpoint.save(tmp_path, checkpoint.State(first.step, first.tensors(), {"seed": 0}))
    state = checkpoint.read(tmp_path)
    second = training(parts, teacher)
    second.restore(state.step, state.tensors)
    assert second.step == 5
    assert run(second, parts, 12) == losses[5:]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_every_epoch_takes_every_pair_once_and_none_that_is_held_out(parts):
    batches = Batches(parts, 32, 0)
    epoch = [pair for step in range(3) for pair in batches.of(step)]
    assert len(epoch) == len(set(epoch)) == 96 - 16
    assert not {pair.en for pair in epoch} & {pair.en for pair in parts.held}
    again = [pair for step in range(3, 6) for pair in batches.of(step)]
    assert set(again) == set(epoch)
    assert again != epoch


def test_the_rate_rises_and_falls():
    rates = [rate(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.01


def test_a_training_of_something_else_does_not_go_on(tmp_path):
    checkpoint.save(tmp_path, checkpoint.State(3, {"a": torch.ones(2)}, {"seed": 0, "lr": 1e-3}))
    state = checkpoint.read(tmp_path)
    checkpoint.check(state, {"lr": 1e-3, "seed": 0}, tmp_path)
    with pytest.raises(UsageError, match=r"lr: 0\.001 there, 0\.01 here") as caught:
        checkpoint.check(state, {"seed": 0, "lr": 1e-2}, tmp_path)
    assert "--fresh" in caught.value.hint


def test_where_nothing_can_be_written_what_was_kept_stays(tmp_path):
    checkpoint.save(tmp_path, checkpoint.State(3, {"a": torch.ones(2)}, {}))
    # A folder in its way stands for a full disk; the tests may run as root.
    (tmp_path / f".{checkpoint.FILE}").mkdir()
    with pytest.raises(NoSpace, match="cannot be kept"):
        checkpoint.save(tmp_path, checkpoint.State(4, {"a": torch.ones(2)}, {}))
    assert checkpoint.read(tmp_path).step == 3


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10" + b"\0" * 40])
def test_a_spoilt_checkpoint_is_told(tmp_path, content):
    (tmp_path / checkpoint.FILE).write_bytes(content)
    with pytest.raises(IntegrityError, match="unfinished training"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../x"},
        {"name": "a/b/c"},
        {"steps": 0},
        {"batch": -1},
        {"rate": 0.0},
        {"width": 100},
        {"held_out": 1},
        {"precision": "fp4"},
        {"steps": 3, "epochs": 2},
        {"is_frozen": True},
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, wrong):
    known = {"repo": "a/b", "name": "x", "pairs": tmp_path / "p", "work": tmp_path}
    Plan(**known).check()
    with pytest.raises(UsageError):
        Plan(**{**known, **wrong}).check()
