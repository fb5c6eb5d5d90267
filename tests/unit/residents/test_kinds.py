import pytest
from msgspec import structs

from zhcache.errors import UsageError, VersionMismatch
from zhcache.protocol.residency import ResidentRequest
from zhcached.residency.resident import kinds
from zhcached.store.snapshots import Derived, Manifest

HELD = Manifest(
    repo="lab/tiny", commit="c" * 40, created=1.0, source="hub", trust="first-use", uid=7, files=()
)


def kind(held=HELD, **fields):
    return kinds.kind_of(ResidentRequest(repo="lab/tiny", **fields), held, "cpu")


def test_equal_options_in_any_order_are_one_kind():
    one = kind(options={"a": 1, "b": {"y": [None, 2.5], "x": "s"}})
    other = kind(options={"b": {"x": "s", "y": [None, 2.5]}, "a": 1})
    assert (one, hash(one)) == (other, hash(other))
    assert one.decoded_options() == {"a": 1, "b": {"y": [None, 2.5], "x": "s"}}


@pytest.mark.parametrize(
    "fields",
    [{"options": {"a": 2}}, {"attention": "native"}, {"compile": True}, {"options": {"a": "1"}}],
)
def test_other_options_are_another_kind(fields):
    assert kind(**fields) != kind(options={"a": 1})


@pytest.mark.parametrize(
    "name",
    [
        "torch_dtype", "dtype", "quantization_config", "device_map", "max_memory", "cache_dir",
        "token", "proxies", "local_files_only", "revision", "variant", "subfolder",
        "pretrained_model_name_or_path", "trust_remote_code", "custom_pipeline",
        "custom_revision", "use_safetensors", "from_flax", "offload_folder", "_private", "Upper",
        "", "a" * 65, "a-b", "名",
    ],
)  # fmt: skip
def test_option_that_names_files_hubs_code_or_precision_is_refused(name):
    with pytest.raises(UsageError):
        kind(options={name: None})


def test_options_that_are_too_large_are_refused():
    with pytest.raises(UsageError, match="the limit is"):
        kind(options={"a": "x" * kinds.MAX_OPTIONS})


def test_options_that_are_nested_too_deep_are_refused():
    nested: list = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(UsageError, match="deep"):
        kind(options={"a": nested})


@pytest.mark.parametrize("tag", ["image", "tensor", "generator"])
def test_option_that_needs_memory_beside_it_is_refused(tag):
    with pytest.raises(UsageError, match=tag):
        kind(options={"a": [{"$": tag, "at": 0}]})


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65])
def test_attention_backend_is_a_plain_name(name):
    with pytest.raises(UsageError, match="attention"):
        kind(attention=name)


def test_variant_is_another_kind_known_by_what_it_was_made_of():
    derived = Derived(HELD.commit, "fp16", "0" * 64)
    made = kind(structs.replace(HELD, commit="d" * 40, derived=derived), variant="fp16")
    assert (made.commit, made.made_of, made.variant) == ("d" * 40, HELD.commit, "fp16")
    assert made != kind()
    assert str(made) == "lab/tiny (fp16) on cpu"


def test_other_protocol_is_refused():
    with pytest.raises(VersionMismatch):
        kinds.check_version(ResidentRequest(repo="lab/tiny", protocol=0))
