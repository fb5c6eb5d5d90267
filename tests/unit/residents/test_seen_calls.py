"""What workers say that calls took: from their word on the line to a plan, and what is believed."""

import asyncio
import json
from types import SimpleNamespace

import msgspec
import pytest

from harness.placementkit import GIB, machine
from harness.storekit import publish
from zhcache.errors import fill
from zhcache.placement.heard import model_of
from zhcache.placement.plan import decide
from zhcache.protocol.names import parse_repo
from zhcache.protocol.placement import SeenCall, WeightsList
from zhcache.protocol.residency import Failed, Returned
from zhcached.api import placement
from zhcached.residency.resident import seen as record
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.seen import SeenCalls

GPU = "GPU-1"
COMMIT = "c" * 40


def took(side=1024, **fields):
    return {"width": side, "height": side, "step": GIB, "decode": 6 * GIB, **fields}


def header(*shape):
    """Returns a file of safetensors with one tensor."""
    count = 2
    for length in shape:
        count *= length
    head = json.dumps(
        {"conv.weight": {"dtype": "F16", "shape": shape, "data_offsets": [0, count]}}
    ).encode()
    return len(head).to_bytes(8, "little") + head + bytes(count)


FILES = {
    "model_index.json": json.dumps(
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
    ).encode(),
    "unet/config.json": json.dumps({"block_out_channels": [320, 640], "sample_size": 128}).encode(),
    "unet/diffusion_pytorch_model.safetensors": header(320, 32),
    "vae/config.json": json.dumps({"block_out_channels": [128, 256, 512, 512]}).encode(),
    "vae/diffusion_pytorch_model.safetensors": header(128, 8),
}


def heard(house, store, repo="lab/real"):
    """Returns what ``GET /v1/weights`` answers."""
    services = SimpleNamespace(store=store, residents=house.residents)
    request = SimpleNamespace(match_info={"repo": repo})
    asked = SimpleNamespace(
        services=services, request=request, revision=lambda: None, variant=lambda: None
    )
    return asyncio.run(placement.weights(asked))


def test_what_a_worker_says_changes_the_next_plan(make, store):
    publish(store, FILES, repo=parse_repo("lab/real"))
    house = make()

    def planned():
        return decide(model_of(heard(house, store), None, 1)[0], machine("12GiB"))

    before = planned()
    assert (before.way.kind, before.way.is_tiled) == ("single", False)
    client = house.client("lab/real", device=GPU)
    client.opened()
    first = took(step=2 * GIB, decode=5 * GIB, encode=7)
    assert isinstance(client.do(took=first), Returned)
    # Before its client has the answer it is known.
    assert heard(house, store).seen == [SeenCall(**first)]
    client.do(took=took())
    both = SeenCall(**took(step=2 * GIB, encode=7, calls=2))
    assert heard(house, store).seen == [both]
    after = planned()
    assert after.way.takes != before.way.takes
    told = [fill(one.template, one.values) for one in after.reason]
    assert "what calls take is corrected by what was seen at 1024x1024 (calls: 2)" in told

    # The next daemon knows it as well.
    house.residents.expire()
    assert heard(make(), store).seen == [both]


def test_a_word_on_another_call_is_the_end_of_the_worker(make, store):
    house = make()
    client = house.client(device=GPU)
    client.opened()
    answer = client.do(do="took of another", took=took())
    assert isinstance(answer, Failed)
    assert answer.error.code == "worker_died"


@pytest.fixture
def seen(tmp_path):
    return SeenCalls(tmp_path / "seen.json", lambda _: 80 * GIB)


def kind(repo="lab/one", device=GPU, **fields):
    return Kind(repo, COMMIT, device, **fields)


def told(seen, repo="lab/one", commit=COMMIT, variant=None):
    return seen.told(WeightsList(repo=repo, commit=commit, variant=variant, parts={})).seen


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 0},
        {"height": 16_385},
        {"batch": 1025},
        {"frames": 0},
        {"step": -1},
        {"decode": 80 * GIB + 1},
        {"encode": 2**62},
        {"calls": 2},
    ],
)
def test_what_cannot_be_is_not_believed(seen, fields):
    seen.add(kind(), SeenCall(**took(**fields)))
    assert told(seen) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"device": "cpu"},
        {"options": b'{"safety_checker":null}'},
        {"attention": "sage"},
        {"compile": True},
        {"role": "prompts"},
        {"sharing": (GPU, "GPU-2")},
    ],
)
def test_workers_that_are_not_everybodys_say_nothing_of_others(seen, fields):
    seen.add(kind(**fields), SeenCall(**took()))
    assert told(seen) == []


def test_a_variant_has_a_record_of_its_own_by_the_name_that_users_know(seen):
    seen.add(kind(variant="int8", made_of="d" * 40), SeenCall(**took()))
    assert told(seen) == told(seen, variant="int8") == []
    assert len(told(seen, commit="d" * 40, variant="int8")) == 1


def test_a_gpu_that_was_lost_is_no_error(tmp_path):
    from zhcached.residency.devices import Devices

    devices = Devices(probe=list)
    seen = SeenCalls(tmp_path / "seen.json", lambda of: devices.capacity(of, 1.0))
    seen.add(kind(), SeenCall(**took()))
    assert told(seen) == []


def test_what_was_seen_last_is_kept_and_no_more(tmp_path, seen, monkeypatch):
    monkeypatch.setattr(record, "MAX_SIZES", 2)
    monkeypatch.setattr(record, "MAX_SNAPSHOTS", 2)
    for side in (64, 128, 64, 256):
        seen.add(kind(), SeenCall(**took(side)))
    assert [(one.width, one.calls) for one in told(seen)] == [(64, 2), (256, 1)]
    # As large and in tiles, or of several, is something else.
    seen.add(kind(), SeenCall(**took(256, is_tiled=True)))
    assert [one.is_tiled for one in told(seen)] == [False, True]
    for repo in ("lab/two", "lab/one", "lab/three"):
        seen.add(kind(repo), SeenCall(**took()))
    assert [len(told(seen, repo)) for repo in ("lab/one", "lab/two", "lab/three")] == [2, 0, 1]
    seen.prune(lambda repo, commit: (repo, commit) == ("lab/three", COMMIT))
    seen.save()
    again = SeenCalls(tmp_path / "seen.json", lambda _: 0)
    assert [len(told(again, repo)) for repo in ("lab/one", "lab/three")] == [0, 1]


def test_a_record_that_cannot_be_read_is_none(tmp_path, seen):
    (tmp_path / "seen.json").write_text('{"snapshots": [{"repo": 7}]}')
    again = SeenCalls(tmp_path / "seen.json", lambda _: 80 * GIB)
    assert told(again) == []
    again.add(kind(), SeenCall(**took()))
    again.save()
    assert len(told(SeenCalls(tmp_path / "seen.json", lambda _: 0))) == 1


def test_what_is_written_is_bounded(seen):
    for n in range(record.MAX_SIZES + 3):
        seen.add(kind(), SeenCall(**took(n + 1)))
    assert len(told(seen)) == record.MAX_SIZES
    assert len(msgspec.json.encode(told(seen))) < 8 * 1024
