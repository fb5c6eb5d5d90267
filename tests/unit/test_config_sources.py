import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zhcache.errors import UsageError
from zhcached import config
from zhcached.errors import AddressRefused
from zhcached.transport.address import AddressPolicy


def loaded(tmp_path, endpoint, *, data_origin=None):
    path = tmp_path / "config.toml"
    extra = "" if data_origin is None else f"data_origins = ['{data_origin}']\n"
    path.write_text(
        f"[[source]]\nname = 'lab'\nkind = 'huggingface'\nendpoint = '{endpoint}'\n{extra}"
    )
    return config.load([path], {})


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://host:99999", "port"),
        ("http://host:0", "port"),
        ("http://[x", "address"),
        ("http://[1::2::3]:80", "IPv6"),
        ("http://[::1]x", "address"),
        ("http://host:", "address"),
        ("http://hüb.example", "address"),
        ("http://h%41st", "address"),
        ("https://user@host", "address"),
        ("https://.", "address"),
        ("host:80", "address"),
    ],
)
def test_source_address_is_refused_by_name_when_nothing_can_be_there(tmp_path, address, reason):
    for options in ({"endpoint": address}, {"endpoint": "https://h", "data_origin": address}):
        with pytest.raises(UsageError) as caught:
            loaded(tmp_path, **options)
        assert "lab" in str(caught.value)
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["https://hf-mirror.com", "http://10.0.0.7:8080/hub", "http://[::1]:65535", "http://h_1/a/b/"],
)
def test_source_address_is_taken_when_something_can_be_there(tmp_path, address):
    assert loaded(tmp_path, address).sources[0].endpoint == address


PIECES = ["http://", "https://", "h", "ü", "[", "]", "::1", "1.2.3.4", ":", "8", "99999", "/", "."]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.characters()), max_size=8).map("".join))
@example("https://.")
@example("http://h\x00")
def test_configuration_takes_no_address_that_the_transport_refuses(tail):
    url = "http://" + tail
    try:
        checked = config.load([], {"HF_ENDPOINT": url})
    except UsageError:
        return
    try:
        AddressPolicy.of(source.endpoint for source in checked.sources)
    except AddressRefused as error:
        pytest.fail(f"{url!r} was taken: {error}")
