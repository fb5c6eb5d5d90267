"""What following fetches: when it may, what the ref means meanwhile, what outlives a daemon."""

import threading

import msgspec
import pytest

from harness.fillkit import files_of
from harness.followkit import OWNER, until
from zhcached.jobs.following.fetches import CLOSED
from zhcached.jobs.queue import MAX_REFRESHES

UNET = "unet/diffusion_pytorch_model.safetensors"
FIRST = bytes(range(256)) * 40


def pipeline(repo, unet=FIRST):
    """A pipeline of which no other test's repository has the same files."""
    return files_of(unet=repo.encode() + unet)


NIGHT, NOON = 23 * 60, 12 * 60


@pytest.fixture
def held(hub, front, repo):
    """A followed pipeline whose next variant is held up until ``front.control.go()``."""
    hub.add(repo, pipeline(repo))
    front.follow(repo, variants=["fp16"], keep=0)
    front.settled(repo)
    front.control.do("gate")
    return hub.update(repo, {UNET: FIRST[::-1]}).commit


def variants(front, repo, commit):
    return set(front.store.variants(front.ledger.find(repo).repo_id, commit))


def converting(front, repo):
    """Waits until all of the newest fetch is here but its variant."""
    return until(
        lambda: (job := front.fetches(repo)[0]).state == "converting" and job, "its variant is made"
    )


def test_ref_moves_once_the_variants_of_the_new_revision_are_here_too(front, held, repo):
    old = front.ref(repo)
    assert variants(front, repo, old) == {"fp16"}
    front.pass_s(101)
    converting(front, repo)
    assert (front.ref(repo), front.here(repo)) == (old, {old, held})
    assert front.state(repo).state == "fetching"
    front.control.go()
    assert front.settled(repo).commit == front.ref(repo) == held
    assert variants(front, repo, held) == {"fp16"}
    until(lambda: front.here(repo) == {held}, "the old one is gone, and its variant with it")


def test_variant_that_cannot_be_made_leaves_the_ref_where_it_is(front, held, repo):
    old = front.ref(repo)
    front.control.do("die")
    front.pass_s(101)
    seen = front.settled(repo, "failing")
    assert (front.ref(repo), seen.commit, seen.error.code) == (old, old, "worker_died")


def test_variants_that_are_missing_are_made_though_nothing_is_new(hub, front, repo):
    hub.add(repo, pipeline(repo))
    commit = front.prefetch(repo).result.commit
    sent = hub.sent(repo=repo)
    front.follow(repo, variants=["fp16"])
    front.settled(repo)
    assert (variants(front, repo, commit), hub.sent(repo=repo)) == ({"fp16"}, sent)


def test_ref_that_a_user_moved_meanwhile_is_not_moved_back(hub, front, held, repo):
    front.pass_s(101)
    converting(front, repo)
    newest = hub.update(repo, {UNET: FIRST[::2]}).commit
    assert front.prefetch(repo).result.commit == newest == front.ref(repo)
    front.control.go()
    until(lambda: front.state(repo).job is None, "the fetch of the older one ends")
    front.settled(repo)
    assert front.ref(repo) == newest


def test_unfollow_ends_the_fetch_and_keeps_what_is_here(front, held, repo):
    old = front.ref(repo)
    front.pass_s(101)
    converting(front, repo)
    front.unfollow(repo)
    assert front.fetches(repo)[0].state == "cancelled"
    assert (front.ref(repo), old in front.here(repo)) == (old, True)


def test_fetch_that_its_user_cancels_is_told_and_begun_again_at_a_later_look(front, held, repo):
    front.pass_s(101)
    job = converting(front, repo)
    front.call(front.jobs.cancel(job.id, uid=OWNER, may_all=False))
    assert front.settled(repo, "failing").error.code == "cancelled"
    front.control.go()
    front.pass_s(24 * 3600)
    assert front.settled(repo).commit == held


def test_followed_models_are_fetched_at_their_hours_and_rest_between_them(hub, front, repo):
    hub.add(repo, pipeline(repo))
    front.at(NOON)
    front.hours("22:00-07:00")
    front.follow(repo, variants=["fp16"])
    waiting = front.settled(repo, "waiting")
    assert (front.fetches(repo)[0].state, hub.sent(repo=repo)) == ("queued", 0)
    front.control.do("gate")
    front.at(NIGHT)
    until(lambda: front.control.starts, "a worker converts")
    front.at(NOON)
    rests = until(
        lambda: (j := front.fetches(repo)[0]).state == "queued" and j, "it is put to rest"
    )
    assert (rests.id, rests.note, front.state(repo).state) == (waiting.job, CLOSED, "waiting")
    sent = hub.sent(repo=repo)
    front.control.go()
    front.at(NIGHT)
    until(lambda: front.ref(repo), "it goes on the next night")
    assert (front.fetches(repo)[0].id, hub.sent(repo=repo)) == (waiting.job, sent)


def test_user_who_asks_for_a_model_that_waits_for_its_hours_has_it_at_once(hub, front, repo):
    hub.add(repo, pipeline(repo))
    front.at(NOON)
    front.hours("22:00-07:00")
    front.follow(repo)
    waiting = front.settled(repo, "waiting")
    assert front.prefetch(repo).state == "done"
    assert front.fetches(repo)[0].id == waiting.job
    assert front.fetches(repo)[0].state == "queued"
    front.pass_s(101)
    assert front.settled(repo).commit == front.ref(repo)
    assert front.fetches(repo)[0].state == "cancelled"


def test_newer_revision_takes_the_place_of_one_that_still_waits(hub, front, repo):
    hub.add(repo, pipeline(repo))
    front.at(NOON)
    front.hours("22:00-07:00")
    front.follow(repo)
    older = front.settled(repo, "waiting").job
    newest = hub.update(repo, {UNET: FIRST[::-1]}).commit
    front.pass_s(101)
    assert front.settled(repo, "waiting").job != older
    front.at(NIGHT)
    until(lambda: front.ref(repo) == newest, "the newest is fetched")
    assert front.here(repo) == {newest}


def test_followed_models_leave_the_line_to_users(hub, front, repo):
    followed = [f"{repo}-{n}" for n in range(MAX_REFRESHES + 2)]
    front.control.do("gate")
    for name in followed:
        hub.add(name, pipeline(name))
        front.follow(name, variants=["fp16"])
    until(lambda: all(map(front.fetches, followed)), "all are to be fetched")
    until(lambda: len(front.control.starts) == MAX_REFRESHES, "as many as may are")
    hub.add(repo, {"a": repo.encode()})
    assert front.prefetch(repo).state == "done"
    states = [front.state(name).state for name in followed]
    assert sorted(states) == ["fetching"] * MAX_REFRESHES + ["waiting"] * 2
    front.control.go()


def test_restart_keeps_the_schedule_and_goes_on_with_the_fetch(front, held, repo):
    front.pass_s(101)
    job = converting(front, repo)
    due = front.state(repo).next
    front.restart()
    assert front.state(repo).next == due
    until(lambda: front.state(repo).state == "fetching", "the same job goes on")
    assert front.state(repo).job == job.id
    front.control.go()
    until(lambda: front.ref(repo) == held, "the ref moves")


def test_looks_that_an_earlier_daemon_missed_are_spread_and_done_once(hub, front, repo):
    for n in range(4):
        hub.add(f"{repo}-{n}", {"a": bytes([n])})
        front.follow(f"{repo}-{n}")
    for n in range(4):
        front.settled(f"{repo}-{n}")
    front.stop()
    front.clock.pass_s(10 * 24 * 3600)
    hub.clear_log()
    front.start()
    due = until(
        lambda: (
            (at := [front.state(f"{repo}-{n}").next for n in range(4)])[0] > front.clock.now and at
        ),
        "the looks are spread",
    )
    assert [at - front.clock.now for at in due] == [2.5, 7.5, 12.5, 17.5]
    assert hub.requests == []
    front.pass_s(20)
    for n in range(4):
        front.settled(f"{repo}-{n}")
    asked = [request.path for request in hub.requests if "/revision/" in request.path]
    assert len(asked) == len(set(asked)) == 4


def test_clock_that_is_put_back_delays_a_look_by_one_pause_at_most(hub, front, repo):
    hub.add(repo, {"a": b"a"})
    front.follow(repo)
    front.settled(repo)
    front.pass_s(-365 * 86400)
    until(lambda: front.state(repo).next <= front.clock.now + 400, "the look is moved")
    front.pass_s(365 * 86400)


def test_what_is_followed_survives_the_index(hub, front, repo):
    hub.add(repo, {"a": b"a"})
    front.follow(repo, every=33.0, keep=4)
    front.settled(repo)
    front.stop()
    for path in (front.folder / "store").glob("index.sqlite*"):
        path.unlink()
    front.start()
    kept = front.state(repo)
    assert (kept.every, kept.keep, kept.uid) == (33.0, 4, OWNER)


def test_stop_does_not_wait_for_a_hub_that_is_silent(hub, front, repo):
    hub.add(repo, {"a": b"a"})
    silent = hub.fault("delay", plane="meta", seconds=20.0)
    front.follow(repo)
    until(lambda: silent.applied, "the hub is asked")
    stopped = threading.Thread(target=front.stop)
    stopped.start()
    stopped.join(10)
    assert not stopped.is_alive()
    hub.heal()
    front.start()


def test_what_came_of_a_fetch_that_rests_is_not_collected(hub, front, repo):
    small = "vae/small.safetensors"
    hub.add(repo, {small: repo.encode(), UNET: repo.encode() + FIRST})
    held = hub.fault("stall", path="unet/*", at=100, seconds=0.5)
    front.hours("22:00-07:00")
    front.at(NIGHT)
    front.follow(repo)
    until(lambda: held.applied and hub.sent(small, repo), "the small file is here")
    front.at(NOON)
    until(lambda: front.state(repo).state == "waiting", "it is put to rest")
    job = front.state(repo).job
    until(lambda: front.ledger.find(repo).held, "what it holds is recorded")
    front.clock.pass_s(24 * 3600)
    front.store.gc()
    front.config = msgspec.structs.replace(front.config, hours="22:00-07:00")
    front.restart()
    until(lambda: front.state(repo).job == job, "the job is taken up")
    front.store.gc()
    hub.heal()
    front.at(NIGHT)
    until(lambda: front.ref(repo), "it goes on the next night")
    front.settled(repo)
    assert hub.sent(small, repo) == len(repo)
