from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zhcached.residency.resident.fairness import Turns

uids = st.integers(0, 4)


class Lines(RuleBasedStateMachine):
    """Turns against the plainest model of them: a list of users and a line for each."""

    def __init__(self):
        super().__init__()
        self.turns = Turns()
        self.users: list[int] = []
        self.lines: dict[int, deque] = {}
        self.made = 0
        self.served = None
        self.passed: dict[object, Counter] = {}

    @rule(uid=uids)
    def add(self, uid):
        self.made += 1
        item = (uid, self.made)
        self.turns.add(uid, item)
        self.lines.setdefault(uid, deque()).append(item)
        if uid not in self.users:
            self.users.append(uid)
            if self.served in self.users and self.served != uid:
                self.users.remove(self.served)
                self.users.append(self.served)
        if self.lines[uid][0] == item:
            self.passed[uid] = Counter()

    @rule()
    def take(self):
        expected = None
        if self.users:
            uid = self.served = self.users.pop(0)
            expected = self.lines[uid].popleft()
            if self.lines[uid]:
                self.users.append(uid)
            else:
                del self.lines[uid]
            for other in self.users:
                self.passed[other][uid] += other != uid
            self.passed[uid] = Counter()
        assert self.turns.take() == expected

    @rule(uid=uids, place=st.integers(0, 5))
    def remove(self, uid, place):
        line = self.lines.get(uid, deque())
        item = line[place] if place < len(line) else (uid, -1)
        assert self.turns.remove(uid, item) == (item in line)
        if item in line:
            line.remove(item)
            if not line:
                del self.lines[uid]
                self.users.remove(uid)

    @invariant()
    def no_user_is_overtaken_twice_by_the_same_one(self):
        for uid in self.users:
            assert max(self.passed[uid].values(), default=0) <= 1

    @invariant()
    def length_and_order_tell_the_truth(self):
        order = self.turns.order()
        assert len(self.turns) == len(order) == sum(len(line) for line in self.lines.values())
        if order:
            assert order[0] == self.lines[self.users[0]][0]


TestLines = Lines.TestCase


@given(st.lists(uids))
def test_order_is_the_order_in_which_they_are_taken(comers):
    turns = Turns()
    for number, uid in enumerate(comers):
        turns.add(uid, (uid, number))
    said = turns.order()
    assert said == [turns.take() for _ in comers]
    assert turns.take() is None


def test_one_who_queues_many_delays_another_by_one():
    turns = Turns()
    for number in range(1000):
        turns.add(1, (1, number))
    turns.add(2, (2, 0))
    assert turns.order().index((2, 0)) == 1


def test_user_who_calls_one_after_the_other_gets_every_second_turn():
    turns, served, ended = Turns(), [], None
    for uid in (1, 1, 1, 2):
        turns.add(uid, uid)
    for _ in range(8):
        uid = turns.take()
        # Whose call has ended calls again, when the next one has been taken already.
        if ended is not None:
            turns.add(ended, ended)
        served.append(uid)
        ended = uid
    assert served == [1, 2] * 4


@given(st.lists(st.tuples(uids, st.integers()), min_size=1))
def test_what_is_put_back_is_next_and_the_rest_as_it_was(added):
    turns: Turns[tuple[int, int]] = Turns()
    for item in added:
        turns.add(item[0], item)
    before = turns.order()
    taken = turns.take()
    assert taken is not None
    turns.put_back(taken[0], taken)
    after = turns.order()
    assert (after[0], sorted(after)) == (taken, sorted(before))
