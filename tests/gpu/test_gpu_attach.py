"""Attached pipelines on the device under test: stock's images, and no memory of their own."""

from __future__ import annotations

import pytest

from harness.daemon import until
from harness.keeper import Keeper

REPO = "test/tiny"
OWN_MAX = 8 * 2**20
"""Bytes a second client may take on the GPU by itself: buffers, none of the weights."""


def test_gpu_attach_equals_stock(device, served, painter, pipeline_dir):
    stock = painter("stock", device, pipeline_dir, served).ask("draw")
    attached = painter("attach", device, REPO, served)
    drawn = attached.ask("draw")
    assert drawn["digest"] == stock["digest"]
    # A black image would equal a black image.
    assert drawn["colours"] > 20
    assert attached.ask("places")["alignment"] >= 512


def test_gpu_attach_adds_no_weights_for_the_second_client(cuda, served, painter):
    first = painter("attach", cuda, REPO, served)
    second = painter("attach", cuda, REPO, served)
    for one in (first, second):
        assert one.ask("memory")["own"] < OWN_MAX
    assert first.ask("draw")["digest"] == second.ask("draw")["digest"]


def test_gpu_clients_go_on_when_the_daemon_is_killed(device, served, painter):
    client = painter("attach", device, REPO, served)
    before = client.ask("draw")
    served.kill()
    assert client.ask("draw")["digest"] == before["digest"]
    served.start()
    assert client.ask("draw")["digest"] == before["digest"]
    newcomer = painter("attach", device, REPO, served)
    assert newcomer.ask("draw")["digest"] == before["digest"]


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_gpu_new_client_attaches_without_a_refill_after_a_restart(
    device, make_daemon, painter, pipeline_dir, end
):
    daemon = make_daemon('[residency]\nhost = "arenas"\n')
    keeper = Keeper(daemon)
    try:
        keeper.start()
        daemon.cli("import", str(pipeline_dir), "--repo", REPO)
        client = painter("attach", device, REPO, daemon)
        before = client.ask("draw")
        kept = until(lambda: set(keeper.kept), "the arenas are in the manager's keeping")
        filled = keeper.stored
        getattr(daemon, end)()
        keeper.start()
        assert set(keeper.kept) == kept
        newcomer = painter("attach", device, REPO, daemon)
        # Nothing new came into its keeping: nothing was filled.
        assert keeper.stored == filled
        assert newcomer.ask("draw")["digest"] == before["digest"]
        assert client.ask("draw")["digest"] == before["digest"]
    finally:
        keeper.close()


def test_gpu_writing_kernel_leaves_the_others_their_weights(cuda, served, painter):
    reader, writer = (painter("attach", cuda, REPO, served) for _ in range(2))
    before = reader.ask("draw")
    assert writer.ask("write")["error"]
    writer.end()
    assert reader.ask("draw")["digest"] == before["digest"]
    assert painter("attach", cuda, REPO, served).ask("draw")["digest"] == before["digest"]


def test_gpu_resident_draws_what_attach_draws(device, served, painter):
    attached = painter("attach", device, REPO, served).ask("draw")
    resident = painter("resident", device, REPO, served)
    assert resident.ask("draw")["digest"] == attached["digest"]
