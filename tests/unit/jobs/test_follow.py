"""Followed models with real hubs, jobs and a store: what a look finds and what becomes of it."""

import hashlib
from types import SimpleNamespace

import pytest

from demohub import Hub
from harness.fillkit import files_of as pipeline_files
from harness.followkit import OWNER, until
from zhcache.errors import NotFound, NotPermitted
from zhcached.api import doctor

WEIGHTS = bytes(range(256)) * 400


def files(repo):
    """Files of which no other test's repository has the same."""
    own = repo.encode()
    return {"config.json": own, "unet/model.safetensors": own + WEIGHTS, "README.md": b"# " + own}


def new(hub, repo, text):
    """Makes a new commit and returns its id."""
    return hub.update(repo, {"config.json": text + repo.encode()}).commit


def test_what_is_not_here_is_fetched_at_once_as_the_followers_job(hub, front, repo):
    added = hub.add(repo, files(repo))
    said = front.follow(repo, every=50.0)
    assert (said.state, said.commit, said.every, said.uid) == ("new", None, 50.0, OWNER)
    seen = front.settled(repo)
    assert (seen.commit, seen.next, seen.error) == (added.commit, front.clock.now + 50, None)
    assert front.ref(repo) == added.commit
    (job,) = front.fetches(repo)
    assert (job.uid, job.kind, job.state, job.revision) == (OWNER, "prefetch", "done", added.commit)


def test_look_that_finds_nothing_new_fetches_nothing(hub, front, repo):
    hub.add(repo, files(repo))
    front.follow(repo)
    front.settled(repo)
    sent = hub.sent()
    hub.clear_log()
    front.pass_s(101)
    front.settled(repo)
    assert (hub.sent(), len(front.fetches(repo))) == (0, 1)
    assert sent > 0
    assert hub.requests


def test_new_commit_is_fetched_and_only_what_changed_travels(hub, front, repo):
    hub.add(repo, files(repo))
    front.follow(repo)
    old = front.settled(repo).commit
    hub.clear_log()
    commit = new(hub, repo, b'{"a": 2}')
    front.pass_s(101)
    assert front.settled(repo).commit == commit
    assert {r.file for r in hub.requests if r.plane == "bytes"} == {"config.json"}
    assert (front.ref(repo), front.here(repo)) == (commit, {old, commit})
    assert front.fetches(repo)[0].result.bytes_fetched == len(b'{"a": 2}' + repo.encode())


def test_revisions_that_following_brought_go_beyond_those_to_keep(hub, front, repo):
    hub.add(repo, files(repo))
    front.follow(repo, keep=1)
    commits = [front.settled(repo).commit]
    for n in range(3):
        commits.append(new(hub, repo, b"%d" % n))
        front.pass_s(101)
        until(lambda: front.ref(repo) == commits[-1], "the ref moves")
        front.settled(repo)
    until(lambda: front.here(repo) == set(commits[-2:]), "the older ones are gone")
    assert front.store.gc().bytes_freed > 0
    pruned = hashlib.sha256(b"0" + repo.encode()).hexdigest()
    assert pruned not in {p.name for p in front.store.layout.blobs.rglob("*")}


@pytest.mark.parametrize("reason", ["pinned", "leased", "named", "a user's own"])
def test_revision_that_somebody_may_want_stays(hub, front, reason, repo):
    hub.add(repo, files(repo))
    front.follow(repo, keep=0)
    first = front.settled(repo).commit
    repo_id = front.ledger.find(repo).repo_id
    match reason:
        case "pinned":
            front.store.pins.pin(repo_id, 1)
        case "leased":
            lease = front.store.leases.grant(repo_id, first, uid=1, pid=1)
        case "named":
            front.store.refs.move(repo_id, "v1", first)
        case _:
            assert front.prefetch(repo, revision=first).state == "done"
    second = new(hub, repo, b"2")
    front.pass_s(101)
    assert front.settled(repo).commit == second
    assert front.here(repo) == {first, second}
    if reason == "leased":
        front.store.leases.end(lease)
        front.pass_s(101)
        front.settled(repo)
        until(lambda: front.here(repo) == {second}, "it goes once nobody uses it")


def test_what_a_user_fetched_himself_is_never_pruned(hub, front, repo):
    hub.add(repo, pipeline_files(unet=repo.encode()))
    own = front.prefetch(repo, OWNER).result.commit
    front.follow(repo, keep=0, variants=["fp16"])
    assert front.settled(repo).commit == own
    assert [job.state for job in front.fetches(repo)] == ["done"]
    new(hub, repo, b"2")
    front.pass_s(101)
    until(lambda: front.ref(repo) != own, "the ref moves")
    front.settled(repo)
    assert own in front.here(repo)


def test_failed_look_is_told_and_loses_nothing(hub, front, repo):
    hub.add(repo, files(repo))
    front.follow(repo)
    commit = front.settled(repo).commit
    hub.rename(repo, "org/hidden")
    hub.renamed.clear()
    front.pass_s(101)
    seen = front.settled(repo, "failing")
    assert (seen.error.code, seen.failures, seen.commit) == ("not_found", 1, commit)
    assert seen.next == front.clock.now + 200
    assert front.ref(repo) == commit
    hub.rename("org/hidden", repo)
    front.pass_s(201)
    seen = front.settled(repo)
    assert (seen.error, seen.failures) == (None, 0)


def test_fetch_that_fails_is_told_and_the_next_look_begins_another(hub, front, repo):
    hub.add(repo, files(repo))
    front.follow(repo)
    old = front.settled(repo).commit
    lie = hub.fault("corrupt", path="config.json")
    commit = new(hub, repo, b"2")
    front.pass_s(101)
    seen = front.settled(repo, "failing")
    assert (seen.error.code, seen.commit, front.ref(repo)) == ("integrity", old, old)
    hub.heal(lie)
    front.pass_s(24 * 3600)
    assert front.settled(repo).commit == commit


def test_branch_is_followed_under_its_own_ref(hub, front, repo):
    added = hub.add(repo, files(repo))
    added.point("dev")
    front.follow(repo, revision="dev")
    front.settled(repo)
    assert (front.ref(repo, "dev"), front.ref(repo)) == (added.commit, None)


def test_modelscope_whose_commits_are_derived_is_followed_too(make_front, repo):
    with Hub(name="ms") as ms:
        ms.add(repo, files(repo), protocols=["modelscope"])
        front = make_front((ms, "modelscope"))
        front.follow(repo)
        old = front.settled(repo).commit
        front.pass_s(101)
        assert front.settled(repo).commit == old
        assert len(front.fetches(repo)) == 1
        new(ms, repo, b"2")
        front.pass_s(101)
        until(lambda: front.ref(repo) != old, "the ref moves")
        assert front.settled(repo).commit == front.ref(repo)


def test_same_files_at_another_kind_of_hub_are_no_news(make_front, repo):
    with Hub() as hub, Hub(name="ms") as ms:
        hub.add(repo, files(repo), protocols=["huggingface"])
        ms.add(repo, files(repo), protocols=["modelscope"])
        front = make_front(hub, (ms, "modelscope"))
        commit = front.prefetch(repo).result.commit
        hub.stop()
        front.follow(repo)
        assert front.settled(repo).commit == commit == hub.repo(repo, "huggingface").commit
        assert front.fetches(repo) == []


def test_hubs_without_commits_are_asked_for_the_branch_and_help(make_front, repo):
    with Hub() as hub, Hub(name="ms") as ms:
        for each, kind in ((hub, "huggingface"), (ms, "modelscope")):
            each.add(repo, files(repo), protocols=[kind])
        front = make_front(hub, (ms, "modelscope"))
        front.follow(repo)
        front.settled(repo)
        for each in (hub, ms):
            each.update(repo, {"unet/model.safetensors": WEIGHTS})
        front.pass_s(101)
        until(lambda: front.state(repo).commit == hub.repo(repo, "huggingface").commit, "it comes")
        assert front.fetches(repo)[0].result.trust == "quorum"


def test_hubs_whose_files_differ_do_not_have_the_ref_go_to_and_fro(make_front, repo):
    with Hub() as hub, Hub(name="ms") as ms:
        hub.add(repo, files(repo), protocols=["huggingface"])
        ms.add(repo, files(repo) | {"README.md": b"other"}, protocols=["modelscope"])
        front = make_front(hub, (ms, "modelscope"))
        front.follow(repo)
        commit = front.settled(repo).commit
        hub.stop()
        for _ in range(2):
            front.pass_s(101)
            assert front.settled(repo).commit == commit
        new(ms, repo, b"2")
        front.pass_s(101)
        until(lambda: front.ref(repo) != commit, "who alone answers has another than before")
        assert front.settled(repo).commit == front.ref(repo)


def test_mirror_that_lags_behind_does_not_bring_an_old_revision_back(make_front, repo):
    with Hub() as hub, Hub(name="mirror") as mirror:
        hub.add(repo, files(repo))
        mirror.add(repo, files(repo))
        front = make_front(hub, mirror)
        front.follow(repo)
        old = front.settled(repo).commit
        commit = new(hub, repo, b"2")
        front.pass_s(101)
        assert front.settled(repo).commit == commit
        hub.stop()
        front.pass_s(101)
        front.settled(repo)
        assert front.ref(repo) == commit != old


def test_branch_that_is_put_back_is_followed_back(hub, front, repo):
    added = hub.add(repo, files(repo))
    front.follow(repo)
    old = front.settled(repo).commit
    new(hub, repo, b"2")
    front.pass_s(101)
    front.settled(repo)
    added.point("main", old)
    front.pass_s(101)
    until(lambda: front.ref(repo) == old, "the ref is put back")


def test_only_its_follower_or_an_administrator_changes_or_ends_a_follow(hub, front, repo):
    hub.add(repo, files(repo))
    front.follow(repo)
    with pytest.raises(NotPermitted):
        front.follow(repo, uid=8, every=5.0)
    with pytest.raises(NotPermitted):
        front.unfollow(repo, uid=8)
    changed = front.follow(repo, uid=0, may_all=True, every=5.0)
    assert (changed.every, changed.uid) == (5.0, OWNER)
    front.unfollow(repo, uid=0, may_all=True)
    with pytest.raises(NotFound):
        front.unfollow(repo)


def test_second_follow_changes_what_it_says_and_leaves_the_rest(hub, front, repo):
    hub.add(repo, files(repo))
    front.follow(repo, every=50.0, keep=3)
    changed = front.follow(repo, keep=2)
    assert (changed.every, changed.keep) == (50.0, 2)


@pytest.mark.parametrize(
    ("change", "code"),
    [({"gated": "listing"}, "gated"), ({"disabled": True}, "not_permitted")],
)
def test_model_that_is_closed_upstream_stays_here_and_its_entry_says_why(
    hub, front, repo, change, code
):
    hub.add(repo, files(repo))
    front.follow(repo)
    commit = front.settled(repo).commit
    hub.add(repo, files(repo), **change)
    front.pass_s(101)
    seen = front.settled(repo, "failing")
    assert (seen.error.code, seen.commit, front.ref(repo)) == (code, commit, commit)
    assert front.store.resolve(front.ledger.find(repo).repo_id, "main").commit == commit


def test_sources_that_contradict_each_other_bring_nothing(make_front, repo):
    with Hub() as hub, Hub(name="mirror") as mirror:
        for each in (hub, mirror):
            each.add(repo, files(repo))
        front = make_front(hub, mirror)
        front.follow(repo)
        old = front.settled(repo).commit
        for each in (hub, mirror):
            new(each, repo, b"2")
        mirror.fault("lie", path="config.json")
        front.pass_s(101)
        seen = front.settled(repo, "failing", "fresh")
        if seen.state == "failing":
            assert (seen.error.code, front.ref(repo)) == ("integrity", old)
        else:
            # The liar was found out: what came is the honest one's.
            path = front.store.view.snapshot_dir(front.ledger.find(repo).repo_id, seen.commit)
            assert (path / "config.json").read_bytes() == b"2" + repo.encode()


def test_model_that_was_fetched_without_what_no_pipeline_reads_is_followed_so(hub, front, repo):
    hub.add(repo, pipeline_files(unet=repo.encode()) | {"all-in-one.safetensors": WEIGHTS})
    lean = front.prefetch(repo, only_pipeline=True).result
    assert front.follow(repo).only_pipeline
    assert front.settled(repo).commit == lean.commit
    assert (front.fetches(repo), hub.sent("all-in-one*", repo)) == ([], 0)
    front.follow(repo, only_pipeline=False)
    until(lambda: front.fetches(repo), "the rest is fetched")
    front.settled(repo)
    assert hub.sent("all-in-one*", repo) == len(WEIGHTS)


def test_doctor_tells_of_models_that_fail_for_long(hub, front, repo):
    services = SimpleNamespace(following=front.following)
    front.follow(repo)
    for failures in range(1, doctor.FAILS_LONG + 1):
        assert list(doctor.followed(services)) == []
        front.settled(repo, "failing")
        until(lambda n=failures: front.state(repo).failures == n, "it failed once more")
        front.pass_s(24 * 3600) if failures < doctor.FAILS_LONG else None
    (told,) = doctor.followed(services)
    assert (told.name, told.status) == (f"followed {repo}", "warn")
