"""Followed models with real hubs, jobs and a store: what a look finds and what becomes of it."""

import hashlib

import pytest

from demohub import Hub
from harness.followkit import OWNER, until
from zhcache.errors import NotFound, NotPermitted

REPO = "org/name"
WEIGHTS = bytes(range(256)) * 4000
FILES = {"config.json": b'{"a": 1}', "unet/model.safetensors": WEIGHTS, "README.md": b"# a\n"}


def new(hub, text, repo=REPO):
    """Makes a new commit and returns its id."""
    return hub.update(repo, {"config.json": text}).commit


def test_what_is_not_here_is_fetched_at_once_as_the_followers_job(hub, front):
    repo = hub.add(REPO, FILES)
    said = front.follow(REPO, every=50.0)
    assert (said.state, said.commit, said.every, said.uid) == ("new", None, 50.0, OWNER)
    seen = front.settled(REPO)
    assert (seen.commit, seen.next, seen.error) == (repo.commit, front.clock.now + 50, None)
    assert front.ref(REPO) == repo.commit
    (job,) = front.fetches()
    assert (job.uid, job.kind, job.state, job.revision) == (OWNER, "prefetch", "done", repo.commit)


def test_look_that_finds_nothing_new_fetches_nothing(hub, front):
    hub.add(REPO, FILES)
    front.follow(REPO)
    front.settled(REPO)
    sent = hub.sent()
    hub.clear_log()
    front.pass_s(101)
    front.settled(REPO)
    assert (hub.sent(), len(front.fetches())) == (0, 1)
    assert sent > 0
    assert hub.requests


def test_new_commit_is_fetched_and_only_what_changed_travels(hub, front):
    hub.add(REPO, FILES)
    front.follow(REPO)
    old = front.settled(REPO).commit
    hub.clear_log()
    commit = new(hub, b'{"a": 2}')
    front.pass_s(101)
    assert front.settled(REPO).commit == commit
    assert {r.file for r in hub.requests if r.plane == "bytes"} == {"config.json"}
    assert (front.ref(REPO), front.here(REPO)) == (commit, {old, commit})
    assert front.fetches()[0].result.bytes_fetched == 8


def test_revisions_that_following_brought_go_beyond_those_to_keep(hub, front):
    hub.add(REPO, FILES)
    front.follow(REPO, keep=1)
    commits = [front.settled(REPO).commit]
    for n in range(3):
        commits.append(new(hub, b"%d" % n))
        front.pass_s(101)
        until(lambda: front.ref(REPO) == commits[-1], "the ref moves")
        front.settled(REPO)
    until(lambda: front.here(REPO) == set(commits[-2:]), "the older ones are gone")
    report = front.store.gc()
    assert report.bytes_freed > 0
    assert hashlib.sha256(b"0").hexdigest() not in {
        p.name for p in front.store.layout.blobs.rglob("*")
    }


@pytest.mark.parametrize("reason", ["pinned", "leased", "named", "a user's own"])
def test_revision_that_somebody_may_want_stays(hub, front, reason):
    hub.add(REPO, FILES)
    front.follow(REPO, keep=0)
    first = front.settled(REPO).commit
    repo_id = front.ledger.find(REPO).repo_id
    match reason:
        case "pinned":
            front.store.pin(repo_id, 1)
        case "leased":
            lease = front.store.leases.grant(repo_id, first, uid=1, pid=1)
        case "named":
            front.store.refs.move(repo_id, "v1", first)
        case _:
            assert front.prefetch(REPO, revision=first).state == "done"
    second = new(hub, b"2")
    front.pass_s(101)
    assert front.settled(REPO).commit == second
    assert front.here(REPO) == {first, second}
    if reason == "leased":
        front.store.leases.end(lease)
        front.pass_s(101)
        front.settled(REPO)
        until(lambda: front.here(REPO) == {second}, "it goes once nobody uses it")


def test_what_a_user_fetched_himself_is_never_pruned(hub, front):
    hub.add(REPO, FILES)
    own = front.prefetch(REPO).result.commit
    front.follow(REPO, keep=0)
    assert front.settled(REPO).commit == own
    assert front.fetches() == []
    new(hub, b"2")
    front.pass_s(101)
    until(lambda: front.ref(REPO) != own, "the ref moves")
    front.settled(REPO)
    assert own in front.here(REPO)


def test_failed_look_is_told_and_loses_nothing(hub, front):
    hub.add(REPO, FILES)
    front.follow(REPO)
    commit = front.settled(REPO).commit
    hub.rename(REPO, "org/hidden")
    hub.renamed.clear()
    front.pass_s(101)
    seen = front.settled(REPO, "failing")
    assert (seen.error.code, seen.failures, seen.commit) == ("not_found", 1, commit)
    assert seen.next == front.clock.now + 200
    assert front.ref(REPO) == commit
    hub.rename("org/hidden", REPO)
    front.pass_s(201)
    seen = front.settled(REPO)
    assert (seen.error, seen.failures) == (None, 0)


def test_fetch_that_fails_is_told_and_the_next_look_begins_another(hub, front):
    hub.add(REPO, FILES)
    front.follow(REPO)
    old = front.settled(REPO).commit
    lie = hub.fault("corrupt", path="config.json")
    commit = new(hub, b"2")
    front.pass_s(101)
    seen = front.settled(REPO, "failing")
    assert (seen.error.code, seen.commit, front.ref(REPO)) == ("integrity", old, old)
    hub.heal(lie)
    front.pass_s(24 * 3600)
    assert front.settled(REPO).commit == commit


def test_branch_is_followed_under_its_own_ref(hub, front):
    repo = hub.add(REPO, FILES)
    repo.point("dev")
    front.follow(REPO, revision="dev")
    front.settled(REPO)
    assert (front.ref(REPO, "dev"), front.ref(REPO)) == (repo.commit, None)


def test_modelscope_whose_commits_are_derived_is_followed_too(make_front):
    with Hub(name="ms") as ms:
        ms.add(REPO, FILES, protocols=["modelscope"])
        front = make_front((ms, "modelscope"))
        front.follow(REPO)
        old = front.settled(REPO).commit
        front.pass_s(101)
        assert front.settled(REPO).commit == old
        assert len(front.fetches()) == 1
        new(ms, b"2")
        front.pass_s(101)
        until(lambda: front.ref(REPO) != old, "the ref moves")
        assert front.settled(REPO).commit == front.ref(REPO)


def test_same_files_at_another_kind_of_hub_are_no_news(make_front, hub):
    with Hub(name="ms") as ms:
        hub.add(REPO, FILES, protocols=["huggingface"])
        ms.add(REPO, FILES, protocols=["modelscope"])
        front = make_front(hub, (ms, "modelscope"))
        front.follow(REPO)
        commit = front.settled(REPO).commit
        hub.stop()
        front.pass_s(101)
        assert front.settled(REPO).commit == commit == hub.repo(REPO, "huggingface").commit
        assert len(front.fetches()) == 1


def test_mirror_that_lags_behind_does_not_bring_an_old_revision_back(make_front, hub):
    with Hub(name="mirror") as mirror:
        hub.add(REPO, FILES)
        mirror.add(REPO, FILES)
        front = make_front(hub, mirror)
        front.follow(REPO)
        old = front.settled(REPO).commit
        commit = new(hub, b"2")
        front.pass_s(101)
        assert front.settled(REPO).commit == commit
        hub.stop()
        front.pass_s(101)
        front.settled(REPO)
        assert front.ref(REPO) == commit != old


def test_branch_that_is_put_back_is_followed_back(hub, front):
    repo = hub.add(REPO, FILES)
    front.follow(REPO)
    old = front.settled(REPO).commit
    new(hub, b"2")
    front.pass_s(101)
    front.settled(REPO)
    repo.point("main", old)
    front.pass_s(101)
    until(lambda: front.ref(REPO) == old, "the ref is put back")


def test_only_its_follower_or_an_administrator_changes_or_ends_a_follow(hub, front):
    hub.add(REPO, FILES)
    front.follow(REPO)
    with pytest.raises(NotPermitted):
        front.follow(REPO, uid=8, every=5.0)
    with pytest.raises(NotPermitted):
        front.unfollow(REPO, uid=8)
    changed = front.follow(REPO, uid=0, may_all=True, every=5.0)
    assert (changed.every, changed.uid) == (5.0, OWNER)
    front.unfollow(REPO, uid=0, may_all=True)
    with pytest.raises(NotFound):
        front.unfollow(REPO)


def test_second_follow_changes_what_it_says_and_leaves_the_rest(hub, front):
    hub.add(REPO, FILES)
    front.follow(REPO, every=50.0, keep=3)
    changed = front.follow(REPO, keep=2)
    assert (changed.every, changed.keep) == (50.0, 2)
