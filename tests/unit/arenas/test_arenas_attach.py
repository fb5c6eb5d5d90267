"""Attaching: filled once, shared, released, evicted; the memory is what was in the files."""

import fcntl
import mmap
import os
import threading

import pytest

from harness.daemon import until
from harness.fillkit import GPU, Devices, files_of, put_pipeline
from harness.storekit import COMMIT, MADE, publish_variant
from zhcache.errors import Busy, Cancelled, NoSpace, NotPermitted, UsageError

REPO = "lab/pipe"
OTHER = "beef" + "0" * 36
UNET, VAE = b"u" * 3000, b"v" * 1000


def contents_of(found):
    return {arena.table.component: os.pread(fd, arena.bytes, 0) for arena, fd in found}


def sizes_of(found):
    return {arena.table.component: arena.bytes for arena, _ in found}


def keys_of(found):
    return {arena.table.component: arena.key for arena, _ in found}


def test_arenas_hold_the_weights_and_are_filled_once(desk, control):
    assert contents_of(desk.attach()) == {"unet": UNET, "vae": VAE}
    assert contents_of(desk.attach(uid=8)) == {"unet": UNET, "vae": VAE}
    assert len(control.starts) == 1


def test_memory_of_the_cpu_cannot_be_changed_by_who_has_it(desk):
    _, fd = desk.attach()[0]
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 3000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)
    with mmap.mmap(fd, 3000, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mine:
        mine[:4] = b"mine"
    assert os.pread(fd, 4, 0) == b"uuuu"


def test_only_wanted_components_are_filled(desk, control):
    assert contents_of(desk.attach(components=["vae"])) == {"vae": VAE}
    assert contents_of(desk.attach()) == {"unet": UNET, "vae": VAE}
    assert [start[2:] for start in control.starts] == [["vae"], ["unet"]]


def test_unknown_component_is_told_with_those_there_are(desk):
    with pytest.raises(UsageError, match=r"no component lora.*it has unet, vae"):
        desk.attach(components=["lora"])


def test_component_that_two_repositories_share_is_filled_once(desk, store, control):
    put_pipeline(store, "lab/tuned", OTHER, unet=b"t" * 500, vae=VAE)
    first = keys_of(desk.attach())
    assert keys_of(desk.attach(repo="lab/tuned", commit=OTHER))["vae"] == first["vae"]
    assert [start[2:] for start in control.starts] == [["unet", "vae"], ["unet"]]


def test_all_who_ask_meanwhile_wait_for_one_fill(desk, control):
    control.do("gate")
    waiting = [desk.later(uid=uid) for uid in (7, 8, 9)]
    until(lambda: len(desk.arenas._supply._fills) == 1, "a fill runs")
    until(lambda: [f for f in desk.arenas._supply._fills if len(f.leases) == 3], "all wait")
    control.go()
    assert len({str(keys_of(one.end())) for one in waiting}) == 1
    assert len(control.starts) == 1


def test_progress_of_the_fill_is_told_to_each_who_waits(desk, control):
    control.do("gate")
    told = [[], []]
    waiting = [desk.later(on_progress=each.append) for each in told]
    until(lambda: all(any(p.note == "reads" for p in each) for each in told), "both are told")
    control.go()
    for one in waiting:
        one.end()


def test_cancelled_wait_ends_the_worker_that_nobody_else_waits_for(desk, control, launcher):
    control.do("gate")
    gone = [threading.Event(), threading.Event()]
    waiting = [desk.later(cancelled=each) for each in gone]
    control.pid()
    until(lambda: [f for f in desk.arenas._supply._fills if len(f.leases) == 2], "both wait")
    gone[0].set()
    with pytest.raises(Cancelled):
        waiting[0].end()
    assert launcher.children[0].process.poll() is None
    gone[1].set()
    with pytest.raises(Cancelled):
        waiting[1].end()
    until(lambda: launcher.children[0].process.poll() is not None, "the worker ends")
    until(lambda: desk.arenas.bytes_on("cpu") == 0, "its room is free")
    control.do()
    assert contents_of(desk.attach()) == {"unet": UNET, "vae": VAE}


def test_progress_that_cannot_be_told_ends_the_wait(desk, control):
    control.do("gate")

    def hung_up(_):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        desk.attach(on_progress=hung_up)
    until(lambda: desk.arenas.bytes_on("cpu") == 0, "nothing is kept for it")


def test_arena_stays_for_a_while_after_its_last_lease(desk, clock, descriptors):
    desk.renew(keep_alive=60.0)
    lease, second = desk.lease(), desk.lease()
    desk.attach(lease)
    desk.attach(second)
    desk.release(lease)
    clock.pass_s(100)
    desk.arenas.expire()
    assert desk.arenas.bytes_on("cpu") == 4000
    of = [(REPO, COMMIT, 7, "cpu"), (REPO, COMMIT, 8, "cpu"), (REPO, OTHER, 7, "cpu")]
    assert [desk.arenas.bytes_of(*each) for each in of] == [4000, 0, 0]
    assert desk.arenas.bytes_of(REPO, COMMIT, 7, GPU) == 0
    desk.release(second)
    clock.pass_s(59)
    desk.arenas.expire()
    assert desk.arenas.bytes_on("cpu") == 4000
    clock.pass_s(1)
    desk.arenas.expire()
    assert desk.arenas.bytes_on("cpu") == 0
    assert descriptors() == 0


def test_room_is_made_by_what_was_used_longest_ago(desk, store, clock):
    put_pipeline(store, "lab/two", OTHER, unet=b"t" * 4000)
    desk.renew(Devices(cpu=8000))
    first, second = desk.lease(), desk.lease("lab/two", OTHER)
    desk.attach(first)
    desk.attach(second, "lab/two", OTHER)
    desk.release(first)
    clock.pass_s(1)
    desk.release(second)
    put_pipeline(store, "lab/three", OTHER, unet=b"3" * 4000)
    desk.attach(repo="lab/three", commit=OTHER)
    assert {line.repo for line in desk.arenas.listing()} == {"lab/two", "lab/three"}


def test_leased_arenas_are_waited_for_and_their_holders_named(desk, store, control):
    put_pipeline(store, "lab/two", OTHER, unet=b"t" * 4000)
    desk.renew(Devices(cpu=4000), keep_alive=0.0)
    first = desk.lease()
    desk.attach(first)
    told = []
    second = desk.later(repo="lab/two", commit=OTHER, uid=8, on_progress=told.append)
    until(lambda: told, "it is told what is waited for")
    assert told[0].note == f"waits for room on cpu: process {os.getpid()} of uid 7"
    assert told[0].holders == [f"process {os.getpid()} of uid 7"]
    # What starts workers need not be waited for after the room, and was for the first one.
    assert (len(control.starts), desk.launcher.prepared) == (1, 2)
    desk.attach(first)
    assert desk.launcher.prepared == 2
    desk.release(first)
    assert contents_of(second.end()) == {"unet": b"t" * 4000}


def test_two_who_each_find_a_part_do_not_wait_for_each_other(desk, store):
    # Each finds one component in memory and wants one more; there is room for one pipeline, and
    # for neither while somebody else has a third.
    put_pipeline(store, "lab/two", OTHER, unet=b"1" * 2500, vae=b"2" * 2000)
    put_pipeline(store, "lab/three", OTHER, unet=b"3" * 1500)
    desk.renew(Devices(cpu=5000))
    blocker, first, second = desk.lease(), desk.lease(), desk.lease("lab/two", OTHER)
    for lease, repo, commit, name in (
        (blocker, "lab/three", OTHER, "unet"),
        (desk.lease(), "lab/pipe", COMMIT, "vae"),
        (desk.lease("lab/two", OTHER), "lab/two", OTHER, "vae"),
    ):
        desk.attach(lease, repo, commit, components=[name])
        if lease != blocker:
            desk.release(lease)
    told = [[], []]
    waiting = {
        first: desk.later(lease=first, on_progress=told[0].append),
        second: desk.later(lease=second, repo="lab/two", commit=OTHER, on_progress=told[1].append),
    }
    until(lambda: all(told), "both wait for room")
    desk.release(blocker)
    until(lambda: any(one.result for one in waiting.values()), "one of them is served")
    desk.release(next(lease for lease, one in waiting.items() if one.result))
    served = [sizes_of(one.end()) for one in waiting.values()]
    assert served == [{"unet": 3000, "vae": 1000}, {"unet": 2500, "vae": 2000}]


def test_what_never_fits_is_refused_at_once(desk):
    desk.renew(Devices(cpu=3999))
    with pytest.raises(NoSpace, match=r"lab/pipe takes 4000 bytes on cpu, and 3999"):
        desk.attach()


def test_what_others_of_the_daemon_have_is_no_room(desk):
    desk.renew(Devices(cpu=5000))
    taken = [2000]
    desk.arenas.elsewhere = lambda device: taken[0] if device == "cpu" else 0
    told = []
    waiting = desk.later(on_progress=told.append)
    until(lambda: told, "it waits")
    assert "others of this daemon" in told[0].note
    taken[0] = 0
    waiting.end()


def test_others_of_the_daemon_are_asked_to_make_room(desk):
    desk.renew(Devices(cpu=5000))
    taken, asked = [2000], []

    def make_room(device, need):
        asked.append((device, need > 0))
        taken[0] = 0

    desk.arenas.elsewhere = lambda _: taken[0]
    desk.arenas.make_room = make_room
    desk.later().end()
    assert asked == [("cpu", True)]


def test_copies_are_the_callers_own_and_only_while_leased(desk):
    lease = desk.lease()
    found = desk.attach(lease)
    keys = [arena.key for arena, _ in found]
    copies = desk.arenas.copies(lease, keys)
    assert [os.pread(fd, 1, 0) for fd in copies] == [b"u", b"v"]
    assert not set(copies) & {fd for _, fd in found}
    for fd in copies:
        os.close(fd)
    desk.release(lease)
    with pytest.raises(Cancelled):
        desk.arenas.copies(lease, keys)


def test_client_that_keeps_its_descriptors_after_release_stops_nobody(desk, clock, control):
    desk.renew(keep_alive=0.0)
    lease = desk.lease()
    kept = desk.arenas.copies(lease, keys_of(desk.attach(lease)).values())
    desk.release(lease)
    assert desk.arenas.bytes_on("cpu") == 0
    assert contents_of(desk.attach()) == {"unet": UNET, "vae": VAE}
    assert len(control.starts) == 2
    assert os.pread(kept[0], 3000, 0) == UNET
    for fd in kept:
        os.close(fd)


def test_unknown_device_is_refused(desk):
    with pytest.raises(UsageError, match="no device tpu"):
        desk.attach(device="tpu")


def test_closing_ends_fills_and_waits(desk, control, launcher):
    control.do("gate")
    waiting = desk.later()
    control.pid()
    desk.arenas.close()
    with pytest.raises(Exception, match=r"stopped|waits"):
        waiting.end()
    until(lambda: launcher.children[0].process.poll() is not None, "the worker ends")


# --- keeping, listing, stopping -------------------------------------------------------------------


def test_kept_arenas_outlive_their_idle_time(desk, clock):
    desk.renew(keep_alive=10.0)
    assert desk.arenas.keep("lab/pipe", COMMIT, "cpu", 7, clock.wall() + 100) == 4000
    clock.pass_s(99)
    desk.arenas.expire()
    (line,) = desk.arenas.listing()
    assert (line.bytes, line.leases, line.uid, line.expires) == (4000, 0, 7, clock.wall() + 1)
    clock.pass_s(2)
    desk.arenas.expire()
    assert desk.arenas.listing() == []


def test_arenas_that_only_a_wish_keeps_go_when_it_is_over(desk, clock):
    desk.renew(keep_alive=1000.0)
    desk.arenas.keep("lab/pipe", COMMIT, "cpu", 7, clock.wall() + 3)
    (line,) = desk.arenas.listing()
    assert line.expires == clock.wall() + 3
    clock.pass_s(3)
    desk.arenas.expire()
    assert desk.arenas.listing() == []


@pytest.mark.parametrize(
    ("uid", "is_before", "stays"), [(7, True, False), (8, True, True), (7, False, True)]
)
def test_wish_replaces_the_idle_time_of_its_own_users_earlier_use(
    desk, clock, uid, is_before, stays
):
    desk.renew(keep_alive=1000.0)
    if is_before:
        lease = desk.lease(uid=uid)
        desk.attach(lease, uid=uid)
        desk.release(lease)
    desk.arenas.keep("lab/pipe", COMMIT, "cpu", 7, clock.wall() + 3)
    if not is_before:
        lease = desk.lease(uid=uid)
        desk.attach(lease, uid=uid)
        desk.release(lease)
    clock.pass_s(4)
    desk.arenas.expire()
    assert bool(desk.arenas.listing()) is stays


def test_kept_until_stopped_never_expires(desk, clock):
    desk.arenas.keep("lab/pipe", COMMIT, "cpu", 7, None)
    clock.pass_s(10**9)
    desk.arenas.expire()
    (line,) = desk.arenas.listing()
    assert line.expires is None


def test_keeping_leaves_no_lease(desk, store):
    desk.arenas.keep("lab/pipe", COMMIT, "cpu", 7, None)
    assert store.leases.counts() == {}


def test_listing_has_a_line_for_each_user(desk):
    for uid in (7, 8, 8):
        desk.attach(uid=uid)
    lines = desk.arenas.listing()
    assert [(line.uid, line.leases, line.bytes) for line in lines] == [(7, 1, 4000), (8, 2, 4000)]
    assert all(line.expires is None and line.commit == COMMIT for line in lines)


def test_stop_frees_what_nobody_has_and_names_who_has_the_rest(desk, descriptors):
    lease = desk.lease()
    desk.attach(lease, components=["vae"])
    idle = desk.lease()
    desk.attach(idle, components=["unet"])
    desk.release(idle)
    with pytest.raises(Busy, match=f"process {os.getpid()} of uid 7"):
        desk.arenas.stop("lab/pipe", None, lambda uid: True)
    assert desk.arenas.bytes_on("cpu") == 1000
    desk.release(lease)
    assert desk.arenas.stop("lab/pipe", "cpu", lambda uid: True) == (1000, ["cpu"])
    assert desk.arenas.bytes_on("cpu") == descriptors() == 0


def test_stop_with_force_lets_users_go_on_and_counts_their_bytes_until_they_end(desk, control):
    lease = desk.lease()
    found = desk.attach(lease)
    copies = desk.arenas.copies(lease, keys_of(found).values())
    assert desk.arenas.stop("lab/pipe", None, lambda uid: True, force=True) == (4000, ["cpu"])
    assert os.pread(copies[0], 3000, 0) == UNET
    assert desk.arenas.bytes_on("cpu") == 4000
    desk.attach()
    assert len(control.starts) == 2
    assert desk.arenas.bytes_on("cpu") == 8000
    desk.release(lease)
    assert desk.arenas.bytes_on("cpu") == 4000
    for fd in copies:
        os.close(fd)


def test_descriptors_are_good_until_released_though_the_weights_are_stopped(desk, descriptors):
    lease = desk.lease()
    found = {arena.table.component: fd for arena, fd in desk.attach(lease)}
    desk.arenas.stop("lab/pipe", None, lambda uid: True, force=True)
    # A number that was closed would be the next file's.
    with open(os.devnull):
        assert os.pread(found["unet"], 3000, 0) == UNET
    desk.release(lease)
    assert descriptors() == 0


def test_who_waits_for_room_does_not_wait_for_what_it_has_itself(desk, control):
    desk.renew(Devices(cpu=4000))
    lease = desk.lease()
    desk.attach(lease, components=["vae"])
    desk.release(lease)
    control.do("gate")
    waiting = desk.later()
    control.pid(1)
    until(lambda: desk.arenas.leases(), "it has the vae")
    desk.arenas.stop("lab/pipe", None, lambda uid: True, force=True)
    control.go()
    assert sizes_of(waiting.end()) == {"unet": 3000, "vae": 1000}


def test_stop_leaves_what_is_another_users(desk):
    lease = desk.lease(uid=8)
    desk.attach(lease, uid=8)
    desk.release(lease)
    with pytest.raises(NotPermitted, match="uid 8"):
        desk.arenas.stop("lab/pipe", None, lambda uid: uid == 7)
    assert desk.arenas.bytes_on("cpu") == 4000


def test_stop_leaves_what_another_repository_uses_too(desk, store):
    put_pipeline(store, "lab/tuned", OTHER, unet=b"t" * 500, vae=VAE)
    for repo, commit in (("lab/pipe", COMMIT), ("lab/tuned", OTHER)):
        lease = desk.lease(repo, commit)
        desk.attach(lease, repo, commit)
        desk.release(lease)
    assert desk.arenas.stop("lab/pipe", None, lambda uid: True) == (3000, ["cpu"])
    assert {(line.repo, line.bytes) for line in desk.arenas.listing()} == {("lab/tuned", 1500)}


def test_stop_of_a_variant_leaves_its_source_and_what_both_use(desk, store):
    own = {"unet/diffusion_pytorch_model.safetensors": b"h" * 500}
    publish_variant(store, own, repo="lab/pipe", source=files_of(unet=b"u" * 3000, vae=VAE))
    for commit in (COMMIT, MADE):
        lease = desk.lease("lab/pipe", commit)
        desk.attach(lease, "lab/pipe", commit)
        desk.release(lease)
    assert desk.arenas.bytes_on("cpu") == 4500
    stopped = desk.arenas.stop("lab/pipe", None, lambda uid: True, has=MADE.__eq__)
    assert stopped == (500, ["cpu"])
    assert {(line.commit, line.bytes) for line in desk.arenas.listing()} == {(COMMIT, 4000)}


# --- who shares -----------------------------------------------------------------------------------


def test_users_share_gpu_memory_only_where_configured(desk, control):
    for share, fills in (("uid", 2), ("group", 1), ("off", 3)):
        desk.renew(share=share)
        before = len(control.starts)
        for uid in (7, 7, 8):
            desk.attach(uid=uid, device=GPU)
        assert len(control.starts) - before == fills, share


def test_private_memory_goes_with_its_lease(desk, descriptors):
    desk.renew(share="off")
    lease = desk.lease()
    desk.attach(lease, device=GPU)
    desk.release(lease)
    assert desk.arenas.bytes_on(GPU) == descriptors() == 0


def test_nothing_is_kept_warm_where_nothing_is_shared(desk):
    desk.renew(share="off")
    with pytest.raises(UsageError, match="not shared"):
        desk.arenas.keep("lab/pipe", COMMIT, GPU, 7, None)
