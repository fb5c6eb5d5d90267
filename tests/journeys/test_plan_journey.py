"""Where a held pipeline would go: a real daemon reads the headers, and the client plans."""

import stat

import pytest

from harness.daemon import source
from harness.placementkit import GIB
from zhcache.errors import IntegrityError, NoSpace, NotFound
from zhcache.pipeline.needs import form, needs
from zhcache.placement.heard import model_of

pytestmark = pytest.mark.journey


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    files = {
        str(file.relative_to(pipeline_dir)): file.read_bytes()
        for file in pipeline_dir.rglob("*")
        if file.is_file()
    }
    hub.add("org/pipe", files)
    hub.add("org/cut", {**files, "unet/diffusion_pytorch_model.safetensors": b"\xff" * 64})
    return make_daemon(source(hub)).start()


@pytest.fixture
def client(daemon, monkeypatch):
    import zhcache

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with zhcache.Client(daemon.socket) as client:
        yield client


def test_plan_of_a_held_pipeline(daemon, client):
    with pytest.raises(NotFound, match="org/pipe") as missing:
        client.plan("org/pipe")
    assert "zhcache prefetch org/pipe" in missing.value.hint
    client.prefetch("org/pipe")
    found = daemon.json("plan", "org/pipe", "--devices", "24GiB,24GiB")
    assert (found["placement"], found["workers"]) == ("replicate", ["gpu0", "gpu1"])
    assert set(found["components"]) == {"text_encoder", "unet", "vae"}
    here = client.plan("org/pipe")
    assert here.workers == ["cpu"]
    assert 0 < here.devices[0].bytes < here.devices[0].free <= here.devices[0].total
    with pytest.raises(NoSpace, match="gpu0"):
        client.plan("org/pipe", devices="512MiB")

    client.prefetch("org/cut")
    with pytest.raises(IntegrityError, match=r"unet/diffusion_pytorch_model\.safetensors"):
        client.plan("org/cut")


def test_the_daemon_reckons_as_who_reads_the_folder(daemon, client):
    client.prefetch("org/pipe")
    folder = client.path("org/pipe")
    model, size = model_of(client.weights("org/pipe"), None, 1)
    here = form(folder, None)
    # A file has a header beside its tensors.
    for name, part in model.parts.items():
        assert 0 <= here.parts[name] - part.bytes < 64 * 1024
    assert model.largest == here.largest
    told, read = model.needs, needs(folder)
    assert (told.step, told.decode, told.decode_tiled) == (
        read.step,
        read.decode,
        read.decode_tiled,
    )
    assert size.width == size.height

    # As for a user outside the store's group: the client must not so much as look at the files.
    before = client.plan("org/pipe", devices="8GiB")
    hub = daemon.home / "hub"
    mode = stat.S_IMODE(hub.stat().st_mode)
    hub.chmod(0)
    try:
        assert client.plan("org/pipe", devices="8GiB") == before
    finally:
        hub.chmod(mode)
    heard = client.devices()
    assert (heard.devices, heard.links) == ([], [])
    assert GIB // 4 < heard.host_free <= heard.host_total
