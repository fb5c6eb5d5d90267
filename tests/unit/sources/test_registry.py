import pytest

from zhcached.config import DEFAULT_SOURCES, SourceConfig
from zhcached.errors import AddressRefused
from zhcached.sources import registry
from zhcached.transport.address import AddressPolicy, Origin
from zhcached.transport.http import Transport


@pytest.fixture
def transport():
    made = Transport(AddressPolicy())
    yield made
    made.close()


def test_build_makes_the_default_sources_in_order(transport):
    built = registry.build(DEFAULT_SOURCES, transport, {})
    assert [(source.name, source.kind) for source in built] == [
        ("hf-mirror", "huggingface"),
        ("modelscope", "modelscope"),
        ("huggingface", "huggingface"),
    ]


def test_folders_and_peers_are_sources(transport, tmp_path):
    configs = [
        SourceConfig("far", "peer", "http://127.0.0.1:9"),
        SourceConfig("near", "folder", str(tmp_path)),
    ]
    built = registry.build(configs, transport, {})
    assert [(source.name, source.kind) for source in built] == [("far", "peer"), ("near", "folder")]
    assert registry.configured_folders(configs) == (tmp_path,)


def test_build_refuses_an_endpoint_that_is_no_address(transport):
    with pytest.raises(AddressRefused):
        registry.build([SourceConfig("x", "huggingface", "ftp://x.example")], transport, {})


def test_configured_origins_are_endpoints_and_data_origins():
    config = SourceConfig(
        "x", "huggingface", "http://hub.lab:8080/api", data_origins=("http://10.0.0.5:9000",)
    )
    folder = SourceConfig("y", "folder", "/srv/models")
    assert registry.configured_origins([config, folder]) == {
        Origin("http", "hub.lab", 8080),
        Origin("http", "10.0.0.5", 9000),
    }


def test_endpoint_with_a_path_keeps_it(transport):
    config = SourceConfig("x", "huggingface", "https://artifacts.lab/api/huggingface/")
    source = registry.build([config], transport, {})[0]
    from zhcached.sources.base import Resolution

    found = Resolution("x", "huggingface", "o/m", "main", "1" * 40, (), source.origin)
    assert source.locate(found, "x.json").url == (
        "https://artifacts.lab/api/huggingface/o/m/resolve/" + "1" * 40 + "/x.json"
    )
