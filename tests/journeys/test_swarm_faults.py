"""A swarm whose members lie, stop and come back: the bytes are right, and come from somewhere."""

import hashlib
import random
import signal
import subprocess
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import source, until
from harness.swarmkit import Machine, peer

pytest.importorskip("libtorrent", reason="pip install 'zhcache[swarm]'")
from simulators.teller import Teller

pytestmark = pytest.mark.slow

REPO, WEIGHTS = "org/model", "unet/diffusion_pytorch_model.safetensors"
BYTES = random.Random(8).randbytes(8 * 2**20 + 3)
SHA256 = hashlib.sha256(BYTES).hexdigest()
OTHER = BYTES[:1000] + bytes([BYTES[1000] ^ 1]) + BYTES[1001:]
FILES = {"model_index.json": b'{"_class_name": "T"}', WEIGHTS: BYTES}
SLOW = '[download]\nstall = "3s"\n'


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as started:
        started.add(REPO, FILES)
        yield started


@pytest.fixture
def machine(tmp_path):
    started = []

    def start(number, sources, **options):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = Machine(folder, number, sources, **options)
        started.append(made)
        made.start()
        return made.swarms() if "listen" in options.get("swarm", "listen") else made

    yield start
    for daemon in started:
        daemon.stop()


def seed(machine, hub, number=2, **options):
    first = machine(number, source(hub), **options)
    first.json("prefetch", REPO)
    first.gives(SHA256)
    return first


def paced(number, rate="1MiB", port=0, more=""):
    listen = f'enabled = true\nlisten = "127.0.0.{number}:{port}"\n'
    return f'{listen}rate = "{rate}"\n{more}'


def check_held(daemon):
    path = Path(daemon.json("path", REPO)["path"])
    assert {name: (path / name).read_bytes() for name in FILES} == FILES


def sent_by(daemon):
    return daemon.json("prefetch", REPO)["sources"]


def state_of(daemon, name):
    return next(one for one in daemon.json("sources")["sources"] if one["name"] == name)["state"]


def half_way(daemon):
    """Begins a prefetch and waits until some of it came; what is left is the swarm's to bring."""
    running = daemon.popen("prefetch", REPO, "--json")
    until(lambda: daemon.brought() > 2**20, "a part of it is here")
    return running


def ended(running):
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, (out, err)


def test_torrent_of_other_bytes_costs_only_them_and_its_teller_is_a_liar(hub, machine, tmp_path):
    with Teller(tmp_path, "127.0.0.5", SHA256, told=OTHER, given=OTHER) as liar:
        daemon = machine(3, peer(liar, "liar") + source(hub), more=SLOW)
        came = sent_by(daemon)
        check_held(daemon)
        assert (came["swarm"], came["hub"] >= len(BYTES)) == (len(BYTES), True)
        assert state_of(daemon, "liar") == "lying"
        assert state_of(daemon, "swarm") != "lying"
        assert SHA256 not in daemon.told(SHA256)["torrents"] or daemon.gives(SHA256)


def test_pieces_of_garbage_are_refused_and_the_file_comes_from_elsewhere(hub, machine, tmp_path):
    with Teller(tmp_path, "127.0.0.5", SHA256, told=BYTES, given=bytes(len(BYTES))) as liar:
        daemon = machine(3, peer(liar, "liar") + source(hub), more=SLOW)
        came = sent_by(daemon)
        check_held(daemon)
        assert (came.get("swarm", 0), came["hub"] >= len(BYTES)) == (0, True)


def test_one_who_gives_garbage_does_not_hold_up_those_who_do_not(hub, machine, tmp_path):
    first = seed(machine, hub)
    with Teller(tmp_path, "127.0.0.5", SHA256, told=BYTES, given=OTHER) as liar:
        daemon = machine(3, peer(liar, "liar") + peer(first) + source(hub))
        assert sent_by(daemon)["swarm"] == len(BYTES)
        check_held(daemon)


def test_teller_without_a_swarm_is_drawn_from_by_web_seeds_alone(hub, machine):
    teller = seed(machine, hub, swarm="enabled = true\n")
    assert teller.told(SHA256)["port"] == 0
    drawing = 'enabled = true\nlisten = "127.0.0.3:0"\nweb_seed = true\n'
    second = machine(3, peer(teller), swarm=drawing)
    assert sent_by(second)["swarm"] == len(BYTES)
    check_held(second)
    second.gives(SHA256)
    third = machine(4, peer(teller, "teller") + peer(second, "second"))
    assert sent_by(third)["swarm"] == len(BYTES)
    check_held(third)


def test_source_that_is_away_for_a_while_is_found_again(hub, machine):
    first = seed(machine, hub, swarm=paced(2))
    second = machine(3, peer(first))
    running = half_way(second)
    first.engine().send_signal(signal.SIGKILL)
    ended(running)
    assert second.json("show", REPO)["files"]
    check_held(second)
    assert second.json("jobs")["jobs"][0]["state"] == "done"


def test_process_that_is_killed_midway_costs_no_job_and_comes_back(hub, machine):
    first = seed(machine, hub, swarm=paced(2))
    second = machine(3, peer(first) + source(hub))
    running = half_way(second)
    killed = second.engine()
    killed.kill()
    ended(running)
    check_held(second)
    until(lambda: second.engine().pid != killed.pid, "there is a new process")
    second.gives(SHA256)


def test_job_that_is_cancelled_goes_on_where_it_was_and_leaves_no_copy(hub, machine):
    first = seed(machine, hub, swarm=paced(2))
    second = machine(3, peer(first))
    running = half_way(second)
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    running.wait(30)
    (job,) = second.json("jobs")["jobs"]
    second.cli("cancel", job["id"], check=False)
    incoming = second.home / "swarm" / "incoming"
    until(lambda: not list(incoming.iterdir()), "what came by the torrent is deleted")
    again = second.json("prefetch", REPO)
    assert again["bytes_reused"] > 0
    assert again["bytes_fetched"] < len(BYTES)
    check_held(second)


def test_machines_that_know_the_seed_alone_give_to_each_other(hub, machine):
    first = seed(machine, hub, swarm=paced(2))
    others = [machine(number, peer(first)) for number in (3, 4)]
    running = [daemon.popen("prefetch", REPO, "--json") for daemon in others]
    for one, daemon in zip(running, others, strict=True):
        ended(one)
        check_held(daemon)


def test_who_is_in_no_network_of_the_swarm_is_not_talked_to(hub, machine):
    first = seed(machine, hub)
    drawing = 'enabled = true\nlisten = "127.0.0.3:0"\nweb_seed = true\n'
    shut = machine(3, peer(first), swarm=drawing, networks="127.0.0.3/32", more=SLOW)
    assert sent_by(shut) == {"peer": sum(map(len, FILES.values()))}
    check_held(shut)


def test_private_blob_is_not_taken_from_a_swarm_that_has_it(machine, tmp_path):
    with Hub(name="closed") as closed:
        closed.add(REPO, FILES, private=True, token="t0ken")
        with Teller(tmp_path, "127.0.0.5", SHA256, told=BYTES, given=BYTES) as teller:
            environ = {"HUB_TOKEN": "t0ken"}
            hubs = peer(teller, "teller") + source(closed, token_env='"HUB_TOKEN"')
            daemon = machine(3, hubs, environ=environ)
            assert sent_by(daemon) == {"closed": sum(map(len, FILES.values()))}
            assert not [path for path in teller.asked if path.startswith("torrents")]
            assert daemon.told(SHA256)["torrents"] == {}


def test_without_a_word_in_the_configuration_nothing_listens_and_nothing_is_told(hub, machine):
    plain = machine(2, source(hub), swarm="enabled = false\n")
    plain.json("prefetch", REPO)
    told = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
         f"{plain.url}/zhcache/v1/torrents?sha256={SHA256}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == "404"
    assert not (plain.home / "swarm").exists()
    assert all(s["name"] != "swarm" for s in plain.json("sources")["sources"])
