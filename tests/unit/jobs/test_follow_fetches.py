"""What following fetches: when it may, what the ref means meanwhile, what outlives a daemon."""

import os
import threading

import pytest

from harness.fillkit import files_of
from harness.followkit import OWNER, until
from zhcached.jobs import followed
from zhcached.jobs.follow import CLOSED
from zhcached.jobs.queue import MAX_REFRESHES

REPO = "org/pipe"
UNET = "unet/diffusion_pytorch_model.safetensors"
FIRST = bytes(range(256)) * 40
NIGHT, NOON = 23 * 60, 12 * 60


@pytest.fixture
def held(hub, front):
    """A followed pipeline whose next variant is held up until ``front.control.go()``."""
    hub.add(REPO, files_of(unet=FIRST, vae=b"v" * 3000))
    front.follow(REPO, variants=["fp16"], keep=0)
    front.settled(REPO)
    front.control.do("gate")
    return hub.update(REPO, {UNET: FIRST[::-1]}).commit


def variants(front, commit):
    return set(front.store.variants(front.ledger.find(REPO).repo_id, commit))


def converting(front):
    """Waits until all of the newest fetch is here but its variant."""
    return until(
        lambda: (job := front.fetches()[0]).state == "converting" and job, "its variant is made"
    )


def test_ref_moves_once_the_variants_of_the_new_revision_are_here_too(front, held):
    old = front.ref(REPO)
    assert variants(front, old) == {"fp16"}
    front.pass_s(101)
    converting(front)
    assert (front.ref(REPO), front.here(REPO)) == (old, {old, held})
    assert front.state(REPO).state == "fetching"
    front.control.go()
    assert front.settled(REPO).commit == front.ref(REPO) == held
    assert variants(front, held) == {"fp16"}
    until(lambda: front.here(REPO) == {held}, "the old one is gone, and its variant with it")


def test_variant_that_cannot_be_made_leaves_the_ref_where_it_is(front, held):
    old = front.ref(REPO)
    front.control.do("die")
    front.pass_s(101)
    seen = front.settled(REPO, "failing")
    assert (front.ref(REPO), seen.commit, seen.error.code) == (old, old, "worker_died")


def test_variants_that_are_missing_are_made_though_nothing_is_new(hub, front):
    hub.add(REPO, files_of(unet=FIRST, vae=b"v"))
    commit = front.prefetch(REPO).result.commit
    sent = hub.sent()
    front.follow(REPO, variants=["fp16"])
    front.settled(REPO)
    assert (variants(front, commit), hub.sent()) == ({"fp16"}, sent)


def test_ref_that_a_user_moved_meanwhile_is_not_moved_back(hub, front, held):
    front.pass_s(101)
    converting(front)
    newest = hub.update(REPO, {UNET: FIRST[::2]}).commit
    assert front.prefetch(REPO).result.commit == newest == front.ref(REPO)
    front.control.go()
    until(lambda: front.state(REPO).job is None, "the fetch of the older one ends")
    front.settled(REPO)
    assert front.ref(REPO) == newest


def test_unfollow_ends_the_fetch_and_keeps_what_is_here(front, held):
    old = front.ref(REPO)
    front.pass_s(101)
    converting(front)
    front.unfollow(REPO)
    assert front.fetches()[0].state == "cancelled"
    assert (front.ref(REPO), old in front.here(REPO)) == (old, True)


def test_fetch_that_its_user_cancels_is_told_and_begun_again_at_a_later_look(front, held):
    front.pass_s(101)
    job = converting(front)
    front.call(front.jobs.cancel(job.id, uid=OWNER, may_all=False))
    assert front.settled(REPO, "failing").error.code == "cancelled"
    front.control.go()
    front.pass_s(24 * 3600)
    assert front.settled(REPO).commit == held


def test_followed_models_are_fetched_at_their_hours_and_rest_between_them(hub, make_front):
    hub.add(REPO, files_of(unet=FIRST, vae=b"v"))
    front = make_front(hours="22:00-07:00")
    front.at(NOON)
    front.follow(REPO, variants=["fp16"])
    waiting = front.settled(REPO, "waiting")
    assert (front.fetches()[0].state, hub.sent()) == ("queued", 0)
    front.control.do("gate")
    front.at(NIGHT)
    until(lambda: front.control.starts, "a worker converts")
    front.at(NOON)
    rests = until(lambda: (j := front.fetches()[0]).state == "queued" and j, "it is put to rest")
    assert (rests.id, rests.note, front.state(REPO).state) == (waiting.job, CLOSED, "waiting")
    sent = hub.sent()
    front.control.go()
    front.at(NIGHT)
    until(lambda: front.ref(REPO), "it goes on the next night")
    assert (front.fetches()[0].id, hub.sent()) == (waiting.job, sent)


def test_user_who_asks_for_a_model_that_waits_for_its_hours_has_it_at_once(hub, make_front):
    hub.add(REPO, files_of(unet=FIRST, vae=b"v"))
    front = make_front(hours="22:00-07:00")
    front.at(NOON)
    front.follow(REPO)
    waiting = front.settled(REPO, "waiting")
    assert front.prefetch(REPO).state == "done"
    assert front.fetches()[0].id == waiting.job
    assert front.fetches()[0].state == "queued"
    front.pass_s(101)
    assert front.settled(REPO).commit == front.ref(REPO)
    assert front.fetches()[0].state == "cancelled"


def test_newer_revision_takes_the_place_of_one_that_still_waits(hub, make_front):
    hub.add(REPO, files_of(unet=FIRST))
    front = make_front(hours="22:00-07:00")
    front.at(NOON)
    front.follow(REPO)
    older = front.settled(REPO, "waiting").job
    newest = hub.update(REPO, {UNET: FIRST[::-1]}).commit
    front.pass_s(101)
    assert front.settled(REPO, "waiting").job != older
    front.at(NIGHT)
    until(lambda: front.ref(REPO) == newest, "the newest is fetched")
    assert front.here(REPO) == {newest}


def test_followed_models_leave_the_line_to_users(hub, front):
    for n in range(MAX_REFRESHES + 2):
        hub.add(f"org/n{n}", files_of(unet=FIRST + bytes([n])))
        front.control.do("gate")
        front.follow(f"org/n{n}", variants=["fp16"])
    until(lambda: len(front.fetches()) == MAX_REFRESHES + 2, "all are to be fetched")
    until(lambda: len(front.control.starts) == MAX_REFRESHES, "as many as may are")
    hub.add("org/own", {"a": b"a"})
    assert front.prefetch("org/own").state == "done"
    states = [front.state(f"org/n{n}").state for n in range(MAX_REFRESHES + 2)]
    assert sorted(states) == ["fetching"] * MAX_REFRESHES + ["waiting"] * 2
    front.control.go()


def test_restart_keeps_the_schedule_and_goes_on_with_the_fetch(front, held):
    front.pass_s(101)
    job = converting(front)
    due = front.state(REPO).next
    front.restart()
    assert front.state(REPO).next == due
    until(lambda: front.state(REPO).state == "fetching", "the same job goes on")
    assert front.state(REPO).job == job.id
    front.control.go()
    until(lambda: front.ref(REPO) == held, "the ref moves")


def test_looks_that_an_earlier_daemon_missed_are_spread_and_done_once(hub, front):
    for n in range(4):
        hub.add(f"org/n{n}", {"a": bytes([n])})
        front.follow(f"org/n{n}")
    for n in range(4):
        front.settled(f"org/n{n}")
    front.stop()
    front.clock.pass_s(10 * 24 * 3600)
    hub.clear_log()
    front.start()
    due = until(
        lambda: (
            (at := [front.state(f"org/n{n}").next for n in range(4)])[0] > front.clock.now and at
        ),
        "the looks are spread",
    )
    assert [at - front.clock.now for at in due] == [2.5, 7.5, 12.5, 17.5]
    assert hub.requests == []
    front.pass_s(20)
    for n in range(4):
        front.settled(f"org/n{n}")
    asked = [request.path for request in hub.requests if "/revision/" in request.path]
    assert len(asked) == len(set(asked)) == 4


def test_clock_that_is_put_back_delays_a_look_by_one_pause_at_most(hub, front):
    hub.add(REPO, {"a": b"a"})
    front.follow(REPO)
    front.settled(REPO)
    front.pass_s(-365 * 86400)
    until(lambda: front.state(REPO).next <= front.clock.now + 400, "the look is moved")


def test_what_is_followed_survives_the_index(hub, front):
    hub.add(REPO, {"a": b"a"})
    front.follow(REPO, every=33.0, keep=4)
    front.settled(REPO)
    front.stop()
    for path in (front.folder / "store").glob("index.sqlite*"):
        path.unlink()
    front.start()
    kept = front.state(REPO)
    assert (kept.every, kept.keep, kept.uid) == (33.0, 4, OWNER)


@pytest.mark.parametrize("content", [b"", b"{", b'{"followed": [{"repo": "../x", "uid": 1}]}'])
def test_damaged_record_is_set_aside_and_told(hub, front, content):
    hub.add(REPO, {"a": b"a"})
    front.follow(REPO)
    front.stop()
    record = front.folder / "store" / followed.NAME
    record.write_bytes(content)
    front.start()
    assert front.ledger.all() == []
    (aside,) = record.parent.glob(f"{followed.NAME}.damaged-*")
    assert aside.read_bytes() == content
    assert aside.name in front.ledger.problems[0]
    front.follow(REPO)
    front.settled(REPO)


def test_disk_that_is_full_ends_no_following(hub, front):
    hub.add(REPO, {"a": b"a"})
    front.follow(REPO)
    front.settled(REPO)
    record = front.folder / "store" / followed.NAME
    before = record.read_bytes()
    os.chmod(record.parent, 0o750)
    full = pytest.MonkeyPatch()
    full.setattr(followed.files, "write_durably", _no_space)
    try:
        front.pass_s(101)
        seen = front.settled(REPO)
        assert seen.looked == front.clock.now
        assert record.read_bytes() == before
    finally:
        full.undo()


def _no_space(path, content, mode=0o640):
    from zhcache.errors import NoSpace

    raise NoSpace("no room left on the disk under {where}", where=path)


def test_stop_does_not_wait_for_a_hub_that_is_silent(hub, front):
    hub.add(REPO, {"a": b"a"})
    silent = hub.fault("delay", seconds=20.0)
    front.follow(REPO)
    until(lambda: silent.applied, "the hub is asked")
    stopped = threading.Thread(target=front.stop)
    stopped.start()
    stopped.join(10)
    assert not stopped.is_alive()
    hub.heal()
