"""Which workers stay, for how long, and which make room."""

import contextlib
import os
import threading

import pytest

from harness.daemon import until as wait_until
from harness.fillkit import Control, FillLauncher, arenas_of, put_pipeline
from harness.residentkit import WAIT_S
from harness.storekit import COMMIT
from zhcache.errors import Busy, Cancelled, NoSpace, NotFound, NotPermitted, ZhcacheError
from zhcache.protocol import residency
from zhcache.protocol.names import parse_repo
from zhcached.clock import SystemClock
from zhcached.residency.stopping import Stopping

ME = os.getuid()


class Clock:
    """A clock that tests move on."""

    def __init__(self):
        self.now = 0.0

    def wall(self):
        return 1_700_000_000 + self.now

    def monotonic(self):
        return self.now


def used_and_left(house, repo, **fields):
    client = house.client(repo, **fields)
    pid = client.do().fields["pid"]
    client.close()
    return pid


def repos(house):
    return sorted(line.repo for line in house.residents.listing())


def settled(condition):
    """Waits until ``condition`` holds; supervisors end in threads of their own."""
    wait_until(condition, "it has settled", WAIT_S)


def warm(house, repo="lab/one", until=None, uid=ME, cancelled=None, **fields):
    request = residency.ResidentRequest(repo=repo, device="cpu", **fields)
    heard = []
    line = house.residents.warm(
        request, uid, until=until, on_progress=heard.append,
        cancelled=cancelled or threading.Event(),
    )  # fmt: skip
    return line, heard


def test_worker_nobody_uses_is_kept_for_its_time_and_then_ended(make):
    clock = Clock()
    house = make(clock, keep_alive=10)
    first = used_and_left(house, "lab/one")
    clock.now = 9
    house.residents.expire()
    assert house.residents.listing()[0].expires == clock.wall() + 1
    assert used_and_left(house, "lab/one") == first
    clock.now = 20
    house.residents.expire()
    settled(lambda: repos(house) == [])
    assert house.residents.bytes_on("cpu") == 0
    assert house.launcher.started[0].wait(0) is not None


def test_worker_is_not_ended_under_a_client_who_only_thinks(make):
    clock = Clock()
    house = make(clock, keep_alive=10)
    client = house.client()
    client.do()
    clock.now = 10**6
    house.residents.expire()
    assert client.do().fields["nth"] == 2


def test_no_keep_alive_ends_the_worker_with_its_last_client(make):
    house = make(keep_alive=0)
    used_and_left(house, "lab/one")
    settled(lambda: repos(house) == [])


def test_longest_unused_worker_makes_place(make):
    clock = Clock()
    house = make(clock, workers=2)
    for number, repo in enumerate(("lab/two", "lab/one")):
        clock.now = number
        used_and_left(house, repo)
    house.client("lab/three").do()
    assert repos(house) == ["lab/one", "lab/three"]


def test_longest_unused_worker_makes_room_in_memory(make):
    house = make(ram=2500)
    for repo in ("lab/one", "lab/two"):
        used_and_left(house, repo)
    house.client("lab/three").do()
    assert repos(house) == ["lab/three", "lab/two"]


def test_worker_at_work_is_waited_for_and_who_has_it_is_named(make, tmp_path):
    gate = tmp_path / "gate"
    house = make(workers=1)
    busy = house.client("lab/one", uid=41)
    number = busy.call(do="wait", gate=str(gate), steps=1, wants_steps=True)
    busy.until(residency.Step)
    waits = house.client("lab/two")
    assert waits.until_note("waits") == (
        f"waits for room: lab/one on cpu of process {os.getpid()} of uid 41"
    )
    gate.touch()
    busy.end_of(number)
    busy.close()
    assert waits.do().fields["nth"] == 1


def test_call_that_takes_longer_than_keep_alive_is_not_ended_for_others(make, tmp_path):
    gate, clock = tmp_path / "gate", Clock()
    house = make(clock, workers=1, keep_alive=10)
    busy = house.client("lab/one")
    number = busy.call(do="wait", gate=str(gate), steps=1, wants_steps=True)
    busy.until(residency.Step)
    clock.now = 1000
    waits = house.client("lab/two")
    waits.until_note("waits for room")
    house.residents.make_room("cpu", 2**40)
    gate.touch()
    assert isinstance(busy.end_of(number), residency.Returned)


def test_client_who_comes_while_the_worker_is_being_ended_gets_another(make):
    house = make()
    used_and_left(house, "lab/one")
    worker = house.launcher.started[0]
    wait, may_end, is_ending = worker.wait, threading.Event(), threading.Event()

    def slow(timeout_s):
        is_ending.set()
        assert may_end.wait(WAIT_S)
        return wait(timeout_s)

    worker.wait = slow
    house.residents.make_room("cpu", 1)
    assert is_ending.wait(WAIT_S)
    client = house.client("lab/one")
    number = client.call()
    client.until(residency.Queued)
    may_end.set()
    assert client.end_of(number).fields["nth"] == 1


def test_client_that_hangs_up_while_it_waits_for_room_leaves_nothing(make):
    house = make(workers=1)
    house.client("lab/one").do()
    waits = house.client("lab/two")
    waits.until_note("waits for room")
    waits.close()
    settled(lambda: repos(house) == ["lab/one"])
    assert len(house.launcher.started) == 1


def test_idle_clients_worker_makes_room_after_its_time_and_comes_back_for_a_call(make):
    clock = Clock()
    house = make(clock, workers=1, keep_alive=10)
    idle = house.client("lab/one")
    idle.do()
    other = house.client("lab/two")
    other.until_note("waits for room")
    clock.now = 10
    house.residents.expire()
    assert other.do().fields["nth"] == 1
    clock.now = 20
    house.residents.expire()
    assert idle.do().fields["nth"] == 1


def test_idle_client_keeps_its_lease_when_its_worker_makes_room(make, store):
    clock = Clock()
    house = make(clock, workers=1, keep_alive=10)
    idle = house.client("lab/one", uid=41)
    idle.do()
    clock.now = 10
    house.client("lab/two", uid=42).do()
    shown = {line.repo: (line.pid is None, line.bytes, line.leases, line.uid)
             for line in house.residents.listing()}  # fmt: skip
    assert shown == {"lab/one": (True, 0, 1, 41), "lab/two": (False, 1000, 1, 42)}
    store.leases.prune_dead()
    with pytest.raises(Busy, match=rf"lab/one is in use by process {os.getpid()} of uid 41"):
        store.remove(parse_repo("lab/one"), None)
    idle.close()
    store.remove(parse_repo("lab/one"), None)
    assert repos(house) == ["lab/two"]


def test_arenas_on_the_cpu_leave_less_room(make):
    house = make(ram=2500)
    house.arenas.bytes = 1000
    for repo in ("lab/one", "lab/two"):
        used_and_left(house, repo)
    assert repos(house) == ["lab/two"]


@pytest.mark.parametrize("is_leased", [False, True])
def test_arenas_nobody_has_make_room_before_an_idle_worker_does(make, store, tmp_path, is_leased):
    put_pipeline(store, "lab/four", COMMIT, unet=b"u" * 1000)
    lease = store.leases.grant(parse_repo("lab/four"), COMMIT, uid=7, pid=os.getpid())
    with contextlib.closing(FillLauncher(Control(tmp_path / "control"))) as launcher:
        arenas = arenas_of(store, SystemClock(), launcher)
        house = make(ram=2500, arenas=arenas)
        used_and_left(house, "lab/one")
        arenas.attach(lease, "lab/four", COMMIT, 7, "cpu")
        if not is_leased:
            arenas.released(lease)
        house.client("lab/two").do()
        shown = ["lab/two"] if is_leased else ["lab/one", "lab/two"]
        assert (repos(house), arenas.bytes_on("cpu") > 0) == (shown, is_leased)
        arenas.close()


def test_idle_workers_make_room_for_arenas_and_busy_ones_do_not(make):
    house = make()
    busy = house.client("lab/one", device="GPU-1")
    busy.call(do="wait", steps=1, wants_steps=True)
    busy.until(residency.Step)
    used_and_left(house, "lab/two", device="GPU-1")
    used_and_left(house, "lab/three", device="GPU-2")
    house.residents.make_room("GPU-1", 2**40)
    settled(lambda: repos(house) == ["lab/one", "lab/three"])


def test_what_never_fits_is_refused(make):
    failed = make(ram=999).client().until(residency.Failed)
    assert (failed.error.code, failed.error.hint) == (
        NoSpace.code, "raise residency.ram or residency.vram in config.toml",
    )  # fmt: skip


def test_warm_worker_outlives_keep_alive_until_its_time(make):
    clock = Clock()
    house = make(clock, keep_alive=10)
    line, heard = warm(house, until=clock.wall() + 100)
    assert (line.expires, heard[-1].note) == (clock.wall() + 100, "reads weights")
    for now, left in ((99, ["lab/one"]), (101, [])):
        clock.now = now
        house.residents.expire()
        settled(lambda left=left: repos(house) == left)


def test_worker_that_only_a_wish_keeps_goes_when_it_is_over(make):
    clock = Clock()
    house = make(clock, keep_alive=1000)
    line, _ = warm(house, until=clock.wall() + 3)
    assert line.expires == clock.wall() + 3
    clock.now = 3
    house.residents.expire()
    settled(lambda: repos(house) == [])


@pytest.mark.parametrize("uid", [ME, ME + 1])
def test_wish_ends_what_its_own_users_earlier_call_gave_and_nobody_elses(make, uid):
    clock = Clock()
    house = make(clock, keep_alive=1000)
    client = house.client("lab/one", uid=uid)
    client.do()
    client.close()
    line, _ = warm(house, until=clock.wall() + 3)
    assert line.expires == clock.wall() + (3 if uid == ME else 1000)


def test_worker_called_since_a_wish_stays_for_its_time_after_the_call(make):
    clock = Clock()
    house = make(clock, keep_alive=1000)
    warm(house, until=clock.wall() + 3)
    clock.now = 2
    used_and_left(house, "lab/one")
    assert house.residents.listing()[0].expires == clock.wall() + 1000


def test_worker_kept_for_ever_stays_and_is_restarted_when_it_dies(make):
    clock = Clock()
    house = make(clock, keep_alive=1)
    line, _ = warm(house, until=None)
    clock.now = 10**7
    house.residents.expire()
    os.kill(line.pid, 9)
    settled(lambda: house.residents.listing()[0].pid not in (None, line.pid))
    assert house.residents.listing()[0].expires is None


def test_warming_that_is_cancelled_ends(make, tmp_path):
    house = make(told={"gate": str(tmp_path / "gate")})
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    with pytest.raises(Cancelled):
        warm(house, cancelled=cancelled)


def test_warming_what_cannot_be_loaded_says_why(make):
    with pytest.raises(ZhcacheError, match="no such pipeline"):
        warm(make(told={"load": "refuse"}))


def test_stop_ends_what_nobody_uses_and_names_who_uses_the_rest(make):
    house = make()
    used_and_left(house, "lab/one")
    house.client("lab/one", uid=55, options={"safety_checker": None}).do()
    done = house.residents.stop("lab/one", uid=ME)
    assert (done.freed, done.holders) == ([("cpu", 1000)], [f"process {os.getpid()} of uid 55"])
    assert len(repos(house)) == 1


@pytest.mark.parametrize(
    ("uid", "may_all", "goes"), [(55, False, True), (7, False, False), (0, True, True)]
)
def test_forced_stop_ends_ones_own_calls_and_nobody_elses(make, uid, may_all, goes):
    house = make()
    client = house.client("lab/one", uid=55)
    number = client.call(do="wait", steps=1, wants_steps=True)
    client.until(residency.Step)
    done = house.residents.stop("lab/one", uid=uid, may_all=may_all, force=True)
    assert (bool(done.freed), bool(done.owners), done.holders) == (goes, not goes, [])
    if goes:
        assert client.end_of(number).error.code == "cancelled"
        assert client.do().fields["nth"] == 1


def test_who_asked_for_it_to_stay_warm_is_who_may_stop_it_whoever_came_first(make):
    house = make()
    client = house.client("lab/one", uid=7)
    client.opened()
    warm(house, uid=8, until=None)
    client.close()
    assert house.residents.stop("lab/one", uid=7).keepers == {8}
    assert house.residents.stop("lab/one", uid=8).freed == [("cpu", 1000)]


def test_wish_of_one_user_does_not_shorten_anothers(make):
    clock = Clock()
    house = make(clock, keep_alive=1)
    warm(house, uid=7, until=None)
    line, _ = warm(house, uid=8, until=clock.wall() + 5)
    assert line.expires is None
    assert house.residents.stop("lab/one", uid=7).keepers == {8}
    clock.now = 6
    house.residents.expire()
    settled(lambda: repos(house) == [])


def test_stop_leaves_what_another_user_keeps_warm(make):
    house = make()
    warm(house, uid=8)
    assert house.residents.stop("lab/one", uid=9).keepers == {8}
    assert house.residents.stop("lab/one", uid=8).freed == [("cpu", 1000)]


def test_stop_names_the_processes_that_have_it_open(make):
    house = make()
    house.client("lab/one", uid=55).opened()
    stopping = Stopping(parse_repo("lab/one"), None, ME, may_all=False, force=False)
    stopping.residents(house.residents)
    with pytest.raises(Busy, match=rf"^lab/one is in use by process {os.getpid()} of uid 55 "):
        stopping.outcome()


@pytest.mark.parametrize("others", [1, 2])
def test_forced_stop_of_what_another_user_has_open_is_not_permitted_and_names_him(make, others):
    house = make()
    for uid in (7, 55)[-others:]:
        house.client("lab/one", uid=uid).opened()
    stopping = Stopping(parse_repo("lab/one"), None, 7, may_all=False, force=True)
    stopping.residents(house.residents)
    with pytest.raises(
        NotPermitted, match=rf"by another user: process {os.getpid()} of uid 55 \(ask them"
    ):
        stopping.outcome()
    assert repos(house) == ["lab/one"]


def test_stop_of_what_only_another_user_keeps_warm_is_not_permitted(make):
    house = make()
    warm(house, uid=8)
    stopping = Stopping(parse_repo("lab/one"), None, 9, may_all=False, force=False)
    stopping.residents(house.residents)
    with pytest.raises(NotPermitted, match=r"^lab/one is kept warm by uid 8 "):
        stopping.outcome()


def test_stop_while_it_loads_does_not_wait_for_the_end_of_loading(make, tmp_path):
    house = make(told={"gate": str(tmp_path / "gate")})
    client = house.client()
    settled(lambda: house.launcher.started and repos(house))
    client.close()
    assert house.residents.stop("lab/one", uid=ME).holders == []
    assert repos(house) == []


def test_stop_of_what_is_not_there(make):
    with pytest.raises(NotFound):
        make().residents.stop("lab/one", uid=ME)
