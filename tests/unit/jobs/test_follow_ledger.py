"""What is followed, as it is kept on disk."""

import shutil

import msgspec
import pytest

from harness.storekit import Clock
from zhcached.jobs.following.followed import Entry
from zhcached.jobs.following.ledger import NAME, Ledger

ENTRY = Entry(repo="org/name", uid=7, every=33.0, variants=("fp16",), brought=("a" * 40,))


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.fixture
def ledger(root):
    opened = Ledger(root, Clock())
    opened.put(ENTRY.repo, lambda _: ENTRY)
    return opened


def changed(**fields):
    return lambda entry: msgspec.structs.replace(entry, **fields)


def test_another_daemon_reads_what_was_written(ledger, root):
    ledger.note(ENTRY.repo, changed(due=5.0))
    assert Ledger(root, Clock()).all() == [msgspec.structs.replace(ENTRY, due=5.0)]
    ledger.drop(ENTRY.repo)
    assert Ledger(root, Clock()).all() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"followed": [',
        b'{"followed": [{"repo": "../x", "uid": 1}]}',
        b'{"followed": [{"repo": "a/b", "uid": 1, "brought": ["../x"]}]}',
        b'{"followed": [{"repo": "a/b", "uid": 1, "every": -1}]}',
    ],
)
def test_damaged_record_is_set_aside_and_told(root, content):
    (root / NAME).write_bytes(content)
    opened = Ledger(root, Clock())
    (aside,) = root.glob(f"{NAME}.damaged-*")
    assert (opened.all(), aside.read_bytes()) == ([], content)
    assert aside.name in opened.problems[0]
    opened.put(ENTRY.repo, lambda _: ENTRY)
    assert (Ledger(root, Clock()).problems, aside.exists()) == ([], True)


def test_note_that_cannot_be_written_holds_and_is_written_with_a_later_one(ledger, root):
    shutil.rmtree(root)
    assert ledger.note(ENTRY.repo, changed(looked=1.0)).looked == 1.0
    with pytest.raises(OSError, match="store"):
        ledger.put("org/other", lambda _: ENTRY)
    assert [entry.repo for entry in ledger.all()] == [ENTRY.repo]
    root.mkdir()
    ledger.note(ENTRY.repo, changed(failures=1))
    assert Ledger(root, Clock()).all() == [msgspec.structs.replace(ENTRY, looked=1.0, failures=1)]


def test_claimed_revision_is_nobodys_to_prune(ledger):
    ledger.claim(ENTRY.repo, "a" * 40)
    assert ledger.find(ENTRY.repo).brought == ()
    ledger.claim("org/unknown", "a" * 40)
