import ipaddress

import pytest

from zhcached.errors import AddressRefused
from zhcached.transport.address import AddressPolicy, Origin, is_global, split_url

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hub.example/x",
        "file:///etc/passwd",
        "https://user@hub.example/",
        "https://user:secret@hub.example/",
        "https://hub.example\\@evil.example/",
        "https:\\\\hub.example/",
        "https://hub.example/a b",
        "https://hub.example/\r\nHost: evil",
        "https://hub.example/\x00",
        "https://hüb.example/",
        "https://hub.example:0/",
        "https://hub.example:70000/",
        "https://hub.example:/x",
        "https://[::1/x",
        "https://[fe80::1%25eth0]/",
        "https://hub%2eexample/",
        "https:///x",
        "https://./x",
        "//hub.example/x",
        "",
    ],
)
def test_url_is_refused_when_parsers_could_disagree(url):
    with pytest.raises(AddressRefused):
        split_url(url)


def test_refusal_of_a_url_shows_neither_user_nor_query():
    with pytest.raises(AddressRefused) as caught:
        split_url("https://user:hunter2@hub.example/x y?sig=hunter3")
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://Hub.Example/a/b?c=d#e", "https://hub.example", "/a/b?c=d"),
        ("https://hub.example.:443", "https://hub.example", "/"),
        ("http://hub.example:8080?x", "http://hub.example:8080", "/?x"),
        ("https://[2001:DB8:0::1]:444/", "https://[2001:db8::1]:444", "/"),
    ],
)
def test_origin_is_canonical(url, origin, path):
    found, target = split_url(url)
    assert (str(found), target) == (origin, path)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.8", "192.88.99.1", "198.18.0.5", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_address_is_not_global_when_it_could_be_a_neighbour(address):
    assert not is_global(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", [PUBLIC, "2606:4700::1111", f"::ffff:{PUBLIC}", "64:ff9b::5db8:d822"]
)
def test_address_is_global_when_it_leads_to_the_open_internet(address):
    assert is_global(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example/",
        f"http://{PUBLIC}/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://1572395042/",
        "https://[::ffff:127.0.0.1]/",
        f"https://[::ffff:{PUBLIC}]/",
        "https://[64:ff9b::5db8:d822]/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
    ],
)
def test_policy_refuses_origin_before_anything_is_resolved(url):
    with pytest.raises(AddressRefused):
        AddressPolicy().check_origin(Origin.parse(url))
    AddressPolicy.of([url]).check_origin(Origin.parse(url))


def test_policy_allows_exactly_the_named_origin():
    policy = AddressPolicy.of(["http://127.0.0.1:8000"])
    policy.check_origin(Origin.parse("http://127.0.0.1:8000/x"))
    for other in ("http://127.0.0.1:8001", "https://127.0.0.1:8000", "http://localhost:8000"):
        with pytest.raises(AddressRefused):
            policy.check_origin(Origin.parse(other))


def test_policy_allows_https_to_public_names_and_addresses():
    policy = AddressPolicy()
    policy.check_origin(Origin.parse("https://hub.example/"))
    policy.check_origin(Origin.parse(f"https://{PUBLIC}/"))
    policy.check_address(Origin.parse("https://hub.example"), ipaddress.ip_address(PUBLIC))
