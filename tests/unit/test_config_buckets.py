"""What ``[[source]]`` of kind ``s3`` may say, and what is refused by name."""

import pytest

from zhcache.errors import UsageError
from zhcached import config
from zhcached.config.buckets import bucket_endpoint
from zhcached.sources.registry import configured_origins

GOOD = {"kind": "s3", "endpoint": "https://s3.lab.example", "bucket": "models"}
KEYS = {"key_env": "S3_KEY", "secret_env": "S3_SECRET"}


def loaded(tmp_path, **keys):
    def written(value):
        if isinstance(value, bool):
            return str(value).lower()
        return repr(list(value)) if isinstance(value, tuple) else repr(value)

    lines = [f"{key} = {written(value)}" for key, value in {**GOOD, **keys}.items()]
    path = tmp_path / "config.toml"
    path.write_text("\n".join(["[[source]]", "name = 'store'", *lines]))
    return config.load([path], {}).sources[0]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"bucket": ""}, "has no bucket"),
        ({"bucket": "../etc"}, "no bucket's name"),
        ({"bucket": "a..b"}, "no bucket's name"),
        ({"bucket": "models.lab", "style": "host"}, "before a host's name"),
        ({"endpoint": "http://[::1]:9000", "style": "host"}, "before a host's name"),
        ({"style": "other"}, "style"),
        ({"prefix": "/models"}, "prefix"),
        ({"prefix": "models/"}, "prefix"),
        ({"prefix": "a/../b"}, "prefix"),
        ({"prefix": "a?b"}, "prefix"),
        ({"region": "us east"}, "region"),
        ({"endpoint": "https://s3.lab.example/models"}, "has no path"),
        ({"endpoint": "s3.lab.example"}, "address"),
        ({"token_env": "TOKEN"}, "in place of token_env"),
        ({"key_env": "S3_KEY"}, "given together"),
        ({"write": True}, "needs key_env"),
        ({"entitled": ("org/gated",), **KEYS}, "write is false"),
        ({"entitled": ("../x",), "write": True, **KEYS}, "repository"),
        ({"kind": "peer", "bucket": "models"}, "bucket is for kind s3 alone"),
        ({"kind": "huggingface", "bucket": "", "write": True}, "write is for kind s3 alone"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path, keys, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        loaded(tmp_path, **keys)
    assert "store" in str(caught.value) or "style" in str(caught.value)


def test_what_can_be_meant_is_taken(tmp_path):
    read = loaded(
        tmp_path, prefix="zoo/models-1", region="cn-hangzhou", write=True, entitled=("org/gated",),
        **KEYS,
    )  # fmt: skip
    assert (read.write, read.entitled, read.prefix) == (True, ("org/gated",), "zoo/models-1")


def test_origin_is_the_buckets_own_where_its_name_stands_before_the_host(tmp_path):
    read = loaded(tmp_path, endpoint="https://oss.example:8443/", style="host")
    assert bucket_endpoint(read) == "https://models.oss.example:8443"
    assert [str(one) for one in configured_origins([read])] == ["https://models.oss.example:8443"]


@pytest.mark.parametrize(
    ("keys", "is_near"), [({}, True), ({"near": False}, False), ({"near": True}, True)]
)
def test_store_is_near_unless_it_is_said_to_be_far(tmp_path, keys, is_near):
    assert loaded(tmp_path, **keys).is_near is is_near
