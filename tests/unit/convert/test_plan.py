"""What a variant takes over, what is converted, and what is refused, from names and indexes."""

import json

import msgspec
import pytest

from harness.storekit import manifest_of, sha256
from zhcache.errors import Incomplete, IntegrityError, UnsafeWeights, UsageError
from zhcached.convert.plan import REPORT, indexes_of, plan
from zhcached.convert.recipe import BUILT_IN

CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "scheduler": ("diffusers", "PNDMScheduler"),
}
SMALL = {
    "model_index.json": b"{}",
    "README.md": b"words",
    "unet/config.json": b"{1}",
    "text_encoder/config.json": b"{2}",
    "tokenizer/vocab.json": b"{3}",
    "scheduler/scheduler_config.json": b"{4}",
}
PLAIN = {
    "unet/diffusion_pytorch_model.safetensors": b"unet",
    "text_encoder/model.safetensors": b"text",
}
FP16 = {
    "unet/diffusion_pytorch_model.fp16.safetensors": b"unet16",
    "text_encoder/model.fp16.safetensors": b"text16",
}


def index(*shards):
    return json.dumps({"metadata": {"total_size": 9}, "weight_map": dict(enumerate(shards))})


def planned(contents, name="fp16", *, classes=CLASSES, **fields):
    manifest = manifest_of(contents, **fields)
    indexes = {f.path: contents[f.path] for f in indexes_of(manifest, classes)}
    return plan(manifest, classes, BUILT_IN[name], indexes)


def sources(work):
    return {one.component: [w.path for w in one.request("").weights] for one in work}


def test_every_component_with_weights_is_converted_and_the_rest_taken_over():
    found = planned(SMALL | PLAIN)
    assert sources(found.work) == {
        "unet": ["diffusion_pytorch_model.safetensors"],
        "text_encoder": ["model.safetensors"],
    }
    assert set(found.taken) == set(SMALL)
    assert found.inputs == {path: sha256(c) for path, c in (SMALL | PLAIN).items()}
    assert not found.is_published


@pytest.mark.parametrize(
    "needless",
    [
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
        "picture.png",
        REPORT,
    ],
)
def test_what_no_pipeline_reads_is_left(needless):
    found = planned(SMALL | PLAIN | {needless: b"x"})
    assert needless not in found.taken
    assert found.inputs == planned(SMALL | PLAIN).inputs


def test_published_files_are_taken_over_under_plain_names():
    found = planned(SMALL | PLAIN | FP16)
    assert found.is_published
    assert {path: file.path for path, file in found.taken.items() if file.path in FP16} == {
        "unet/diffusion_pytorch_model.safetensors": "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors": "text_encoder/model.fp16.safetensors",
    }
    assert not set(found.inputs) & set(PLAIN)
    assert set(found.parts) == {"unet", "text_encoder"}


def test_component_that_was_not_published_so_is_converted():
    found = planned(SMALL | PLAIN | {k: v for k, v in FP16.items() if k.startswith("unet")})
    assert sources(found.work) == {"text_encoder": ["model.safetensors"]}
    assert not found.is_published


def test_other_variant_is_made_of_plain_weights_though_fp16_is_published():
    found = planned(SMALL | PLAIN | FP16, "bf16")
    assert sources(found.work)["unet"] == ["diffusion_pytorch_model.safetensors"]


def test_weights_published_in_variants_alone_are_converted_to_plain_names():
    found = planned(SMALL | FP16, "bf16")
    request = next(one for one in found.work if one.component == "unet").request("")
    assert request.rename == {
        "diffusion_pytorch_model.fp16.safetensors": "diffusion_pytorch_model.safetensors"
    }


NEW = ("model.fp16-{}.safetensors", "model.safetensors.index.fp16.json")
OLD = ("model-{}.fp16.safetensors", "model.safetensors.fp16.index.json")


@pytest.mark.parametrize(("shard", "named"), [NEW, OLD], ids=["present", "deprecated"])
def test_published_shards_get_plain_names_and_an_index_of_them(shard, named):
    shards = [shard.format(f"0000{n}-of-00002") for n in (1, 2)]
    contents = {f"text_encoder/{name}": name.encode() for name in shards}
    contents[f"text_encoder/{named}"] = index(*shards).encode()
    unet = {k: v for k, v in FP16.items() if k.startswith("unet")}
    found = planned(SMALL | unet | contents)
    plain = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert found.is_published
    assert {f"text_encoder/{name}" for name in plain} < set(found.taken)
    (path,) = found.rewritten
    assert path == "text_encoder/model.safetensors.index.json"
    read = json.loads(found.rewritten[path])
    assert read == {
        "metadata": {"total_size": 9},
        "weight_map": dict(zip("01", plain, strict=True)),
    }
    bf16 = planned(SMALL | unet | contents, "bf16").work
    request = next(one for one in bf16 if one.component == "text_encoder").request("")
    assert request.rename == dict(zip([*shards, named], [*plain, path[13:]], strict=True))


def sharded(folder, stem, *, given=(1, 2)):
    names = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    found = {f"{folder}/{names[n - 1]}": b"%d" % n for n in given}
    return found | {f"{folder}/{stem}.safetensors.index.json": index(*names).encode()}


def test_shards_come_in_order_with_their_index():
    unet = sharded("unet", "diffusion_pytorch_model", given=(2, 1))
    stray = {"unet/diffusion_pytorch_model-00003-of-00003.safetensors": b"left of an upload"}
    found = planned(SMALL | unet | stray | {"text_encoder/model.safetensors": b""})
    request = next(one for one in found.work if one.component == "unet").request("/base")
    assert [source.path for source in request.weights] == [
        f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)
    ]
    assert request.index == "diffusion_pytorch_model.safetensors.index.json"
    assert request.rename == {}
    assert request.folder == "/base"


@pytest.mark.parametrize(
    ("folder", "stem", "is_single"),
    [("unet", "diffusion_pytorch_model", False), ("text_encoder", "model", True)],
)
def test_single_file_beside_shards_is_judged_as_the_library_does(folder, stem, is_single):
    found = planned(SMALL | PLAIN | sharded(folder, stem))
    request = next(one for one in found.work if one.component == folder).request("")
    assert (len(request.weights) == 1) is is_single
    assert (request.index is None) is is_single


@pytest.mark.parametrize(
    ("contents", "error", "told"),
    [
        (SMALL | {"unet/diffusion_pytorch_model.safetensors": b""}, Incomplete, "text_encoder/*"),
        (
            SMALL | PLAIN | sharded("unet", "diffusion_pytorch_model", given=(1,)),
            Incomplete,
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        ),
        (
            SMALL
            | {k: v for k, v in PLAIN.items() if "unet" in k}
            | {"text_encoder/model-00001-of-00002.safetensors": b""},
            IntegrityError,
            "no index",
        ),
        (
            SMALL
            | {"unet/diffusion_pytorch_model.bin": b"", "text_encoder/model.safetensors": b""},
            UnsafeWeights,
            "unet/diffusion_pytorch_model.bin",
        ),
        (
            SMALL
            | PLAIN
            | sharded("unet", "diffusion_pytorch_model")
            | {"unet/diffusion_pytorch_model.safetensors.index.json": b"[1, 2]"},
            IntegrityError,
            "cannot be used",
        ),
        ({"model_index.json": b"{}", "tokenizer/vocab.json": b"{}"}, UsageError, "no weights"),
    ],
    ids=["none", "shard", "index", "pickle", "bad index", "nothing"],
)
def test_what_cannot_be_made_is_refused(contents, error, told):
    with pytest.raises(error) as caught:
        planned(contents)
    assert type(caught.value) is error
    assert told in str(caught.value)


def test_weights_that_were_left_out_are_missed_though_there_is_no_config():
    files = {k: v for k, v in (SMALL | PLAIN).items() if not k.startswith("unet/")}
    left_out = {"unet/diffusion_pytorch_model.safetensors": "not matched by --include"}
    with pytest.raises(Incomplete, match="unet"):
        planned(files | {"unet/x.json": b""}, complete=False, left_out=left_out)


def test_recipe_digest_follows_from_inputs_and_nothing_else():
    same = planned(SMALL | PLAIN).recipe
    assert planned(SMALL | PLAIN, commit="beef" * 10, uid=7, created=9.0).recipe == same
    assert planned(SMALL | PLAIN, "bf16").recipe != same
    assert planned(SMALL | PLAIN | {"README.md": b"other"}).recipe != same
    assert planned(SMALL | PLAIN | FP16).recipe != same


def test_estimate_is_bounded_by_what_is_read():
    work = planned(SMALL | PLAIN).work[0]
    assert 0 < work.estimate <= work.bytes == 4
    wide = msgspec.structs.replace(work, part=BUILT_IN["int4"].denoisers)
    assert wide.estimate < work.estimate


def test_shards_that_are_published_in_both_spellings_are_those_of_the_index():
    both = [shard.format(f"0000{n}-of-00002") for n in (1, 2) for shard, _ in (NEW, OLD)]
    contents = SMALL | {k: v for k, v in FP16.items() if k.startswith("unet")}
    contents |= {f"text_encoder/{name}": name.encode() for name in both}
    named = f"text_encoder/{NEW[1]}"
    found = planned(contents | {named: index(*both[::2]).encode()}, "bf16")
    assert sources(found.work)["text_encoder"] == both[::2]
    with pytest.raises(IntegrityError, match="one plain name"):
        planned(contents | {named: index(*both).encode()}, "bf16")


@pytest.mark.parametrize("name", ["", "unet/more"])
def test_only_folders_at_the_root_are_components(name):
    folder = f"{name}/" if name else ""
    hostile = {f"{folder}config.json": b"{}", f"{folder}model.safetensors": b"root"}
    found = planned(SMALL | PLAIN | hostile, classes=CLASSES | {name: ("transformers", "Any")})
    assert set(sources(found.work)) == {"unet", "text_encoder"}


@pytest.mark.parametrize(
    "path",
    [
        "unet/diffusion_pytorch_model.safetensors/words.txt",
        f"{REPORT}/config.json",
    ],
)
def test_file_below_the_name_of_another_that_is_made_is_refused_at_once(path):
    unet = {k: v for k, v in FP16.items() if k.startswith("unet")}
    more = {path: b"x", f"{REPORT}/model.safetensors": b"y"} if REPORT in path else {path: b"x"}
    classes = CLASSES | {REPORT: ("transformers", "Any")}
    contents = SMALL | unet | {k: v for k, v in PLAIN.items() if k.startswith("text")} | more
    with pytest.raises(IntegrityError, match="as a file and as a folder"):
        planned(contents, "bf16", classes=classes)
