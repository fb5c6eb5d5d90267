"""What only the Hugging Face protocol has: pages, renames, gates, LFS entries, commits."""

import json
import time

import pytest
from huggingface_hub import hf_hub_url

from demohub import Hub
from zhcache.errors import Gated, NotFound
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.errors import RemoteInvalid, RepoUnavailable, StatusError, TransportError
from zhcached.sources import registry
from zhcached.sources.base import Resolution
from zhcached.transport.address import AddressPolicy, Origin
from zhcached.transport.http import Transport
from zhcached.transport.message import Headers

REPO = parse_repo("lab/model")
TOKEN = "hf_canary0123456789"
FILES = {f"unet/part{n}.json": b"%d" % n for n in range(7)} | {"x.safetensors": b"w" * 99}


@pytest.fixture
def hub():
    with Hub(page_size=3) as running:
        running.add(str(REPO), FILES)
        yield running


@pytest.fixture
def source(hub):
    transport = Transport(AddressPolicy.of([hub.url]))
    config = SourceConfig("hf", "huggingface", hub.url, token_env="TOKEN")
    yield registry.build([config], transport, {"TOKEN": TOKEN})[0]
    transport.close()


def resolve(source):
    return source.resolve(REPO, None, 30)


def refused(source, error):
    with pytest.raises(RepoUnavailable) as caught:
        resolve(source)
    assert type(caught.value.error) is error
    return caught.value.error


def answer_page(hub, entries, **headers):
    body = json.dumps(entries).encode()
    hub.fault("status", plane="meta", after=1, status=200, body=body, headers=headers)


def entry(path="x.json", **changes):
    return {"type": "file", "path": path, "size": 3, "oid": "b" * 40} | changes


def test_resolve_reads_every_page(hub, source):
    assert {file.path for file in resolve(source).files} == set(FILES)
    assert len([r for r in hub.requests if "/tree/" in r.path]) > 2


def test_resolve_stops_at_endless_pages(hub, source):
    hub.fault("endless_pages")
    with pytest.raises(RemoteInvalid, match="more than"):
        resolve(source)
    assert len(hub.requests) <= 1100


def test_resolve_stops_at_a_page_that_leads_to_itself(hub, source):
    here = f"{hub.url}/api/models/lab/model/tree/{hub.repo(str(REPO), 'huggingface').commit}"
    answer_page(hub, [], Link=f'<{here}>; rel="next"')
    with pytest.raises(RemoteInvalid, match="1000 pages"):
        resolve(source)


@pytest.mark.parametrize(
    "place",
    [
        "{thief}/api/models/lab/model/tree/main",
        "//{thief_authority}/api/models/lab/model/tree/main",
        "https://evil.example/x",
        "http://user@{hub_authority}/x",
        "file:///etc/passwd",
        "http://{hub_authority}\\\\@evil.example/",
    ],
)
def test_resolve_never_follows_a_next_page_elsewhere(hub, place):
    with Hub(name="thief") as thief:
        thief.add(str(REPO), FILES)
        # Even an allowed origin is not followed, so that only this rule can save the token.
        transport = Transport(AddressPolicy.of([hub.url, thief.url]))
        config = SourceConfig("hf", "huggingface", hub.url, token_env="TOKEN")
        source = registry.build([config], transport, {"TOKEN": TOKEN})[0]
        link = place.format(
            thief=thief.url,
            thief_authority=thief.url.partition("//")[2],
            hub_authority=hub.url.partition("//")[2],
        )
        answer_page(hub, [entry()], Link=f'<{link}>; rel="next"')
        with pytest.raises(RemoteInvalid, match="listing continues"):
            resolve(source)
        transport.close()
        assert not thief.requests
        assert len(hub.requests) == 2


def test_deadline_holds_for_all_requests_together(hub, source):
    hub.fault("delay", plane="meta", times=1, seconds=1.5)
    hub.fault("delay", plane="meta", after=1, seconds=30)
    started = time.monotonic()
    with pytest.raises(TransportError):
        source.resolve(REPO, None, 2)
    assert time.monotonic() - started < 3.2


def test_resolve_follows_a_rename_and_says_so(hub, source):
    hub.rename("lab/model", "team/better")
    found = resolve(source)
    assert found.repo == "team/better"
    assert "team/better" in found.warnings[0]
    assert f"/team/better/resolve/{found.commit}/" in source.locate(found, "x.safetensors").url


def test_resolve_reports_gated_when_the_listing_is_refused(hub, source):
    hub.add(str(REPO), FILES, gated="listing")
    hub.tokens.add(TOKEN)
    assert "terms" in refused(source, Gated).hint


def test_resolve_reports_gated_when_only_the_files_are_refused(hub, source):
    hub.add(str(REPO), FILES, gated=True)
    hub.tokens.add(TOKEN)
    error = refused(source, Gated)
    assert "terms" in error.hint
    assert error.exit_code == 8


def test_resolve_reports_gated_when_all_files_are_large(hub, source):
    hub.add(str(REPO), {"README.md": b"x", "x.safetensors": b"w" * 99}, gated=True)
    hub.tokens.add(TOKEN)
    refused(source, Gated)


def test_resolve_lists_a_gated_repository_for_its_readers(hub, source):
    hub.add(str(REPO), FILES, gated=True, token=TOKEN)
    assert resolve(source).private


def test_resolve_reports_gated_for_anonymous_callers(hub):
    hub.add(str(REPO), FILES, gated="listing", token=TOKEN)
    transport = Transport(AddressPolicy.of([hub.url]))
    source = registry.build([SourceConfig("hf", "huggingface", hub.url)], transport, {})[0]
    refused(source, Gated)
    transport.close()


def test_large_files_are_promised_by_sha256_and_others_by_git(source):
    by_path = {file.path: file for file in resolve(source).files}
    assert by_path["x.safetensors"].sha256
    assert by_path["x.safetensors"].git_sha1 is None
    assert by_path["unet/part0.json"].sha256 is None
    assert by_path["unet/part0.json"].git_sha1


def test_resolve_refuses_an_entry_with_two_sizes(hub, source):
    answer_page(hub, [entry(lfs={"oid": "a" * 64, "size": 4, "pointerSize": 1})])
    with pytest.raises(RemoteInvalid, match="two sizes"):
        resolve(source)


def test_resolve_refuses_an_empty_digest(hub, source):
    answer_page(hub, [entry(oid="")])
    with pytest.raises(RemoteInvalid, match="malformed"):
        resolve(source)


def test_resolve_skips_folders_and_submodules(hub, source):
    answer_page(hub, [entry(), entry("a", type="directory"), entry("b", type="submodule")])
    assert [file.path for file in resolve(source).files] == ["x.json"]


@pytest.mark.parametrize("sha", ["main", "", "0" * 39, "A" * 40, "../../x"])
def test_resolve_refuses_a_commit_that_is_none(hub, source, sha):
    body = json.dumps({"id": "lab/model", "sha": sha}).encode()
    hub.fault("status", plane="meta", times=1, status=200, body=body)
    with pytest.raises(RemoteInvalid, match="asked for"):
        resolve(source)


def test_resolve_refuses_another_commit_than_the_one_asked_for(hub, source):
    body = json.dumps({"id": "lab/model", "sha": "1" * 40}).encode()
    hub.fault("status", plane="meta", status=200, body=body)
    with pytest.raises(RemoteInvalid, match="asked for"):
        source.resolve(REPO, "2" * 40, 30)


@pytest.mark.parametrize("name", ["../../x", "a/b/c", "", "a\r\nb/c"])
def test_resolve_refuses_a_hostile_canonical_name(hub, source, name):
    body = json.dumps({"id": name, "sha": "1" * 40}).encode()
    hub.fault("status", plane="meta", status=200, body=body)
    with pytest.raises(RemoteInvalid, match="calls the model"):
        resolve(source)


def test_resolve_names_who_answered_when_a_mirror_redirects(hub):
    with Hub(name="original") as original:
        original.add(str(REPO), FILES)
        transport = Transport(AddressPolicy.of([hub.url, original.url]))
        source = registry.build([SourceConfig("m", "huggingface", hub.url)], transport, {})[0]
        commit = original.repo(str(REPO), "huggingface").commit
        hub.fault("redirect", plane="meta", times=1, to=f"{original.url}/api/models/lab/model")
        tree = f"{original.url}/api/models/lab/model/tree/{commit}?recursive=true"
        hub.fault("redirect", plane="meta", to=tree)
        assert resolve(source).origin == Origin.parse(original.url)
        transport.close()


def test_resolve_by_any_name_falls_back_to_the_name_itself(hub):
    hub.add("runwayml/stable-diffusion-v1-5", FILES)
    transport = Transport(AddressPolicy.of([hub.url]))
    source = registry.build([SourceConfig("hf", "huggingface", hub.url)], transport, {})[0]
    old = parse_repo("runwayml/stable-diffusion-v1-5")
    assert registry.resolve_by_any_name(source, old, None, 30).repo == str(old)
    hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", FILES)
    copy = registry.resolve_by_any_name(source, old, None, 30)
    assert copy.repo == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    configured = {str(old): {"huggingface": "lab/model"}}
    assert registry.resolve_by_any_name(source, old, None, 30, configured).repo == "lab/model"
    transport.close()


def test_resolve_by_any_name_reports_the_name_that_was_asked_for(hub):
    transport = Transport(AddressPolicy.of([hub.url]))
    source = registry.build([SourceConfig("hf", "huggingface", hub.url)], transport, {})[0]
    with pytest.raises(RepoUnavailable) as caught:
        registry.resolve_by_any_name(
            source, parse_repo("stabilityai/stable-diffusion-2-1"), None, 30
        )
    assert isinstance(caught.value.error, NotFound)
    assert "stabilityai/stable-diffusion-2-1" in str(caught.value.error)
    transport.close()


@pytest.mark.parametrize(
    "path",
    ["unet/config.json", "a b.json", "中文/说明.txt", "a#b?c&d=e+f%20g", "~x", "é'(1)!*.json"],
)
def test_locate_forms_the_address_the_official_client_forms(hub, source, path):
    found = Resolution("hf", "huggingface", "lab/model", "main", "1" * 40, (), source.origin)
    official = hf_hub_url("lab/model", path, revision="1" * 40, endpoint=hub.url)
    assert source.locate(found, path).url == official


def test_file_that_is_listed_and_not_there_is_told_from_a_missing_revision(source):
    headers = Headers([("X-Error-Code", "EntryNotFound")])
    error = source.explain(resolve(source), StatusError("no", status=404, headers=headers))
    assert isinstance(error, NotFound)
    assert "revision" not in str(error)
