"""What only the ModelScope protocol has: one listing that is cut, no commits, odd refusals."""

import hashlib
import json

import pytest
from modelscope_hub._legacy_api import LegacyClient

from demohub import Hub
from zhcache.errors import NotPermitted
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.errors import RemoteInvalid, RepoUnavailable, StatusError
from zhcached.sources import modelscope, registry
from zhcached.sources.base import RemoteFile, Resolution
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport

REPO = parse_repo("lab/model")
ENTRY = {"Path": "x", "Type": "blob", "Size": 1, "Sha256": "a" * 64}
FILES = {"config.json": b"{}", "x.safetensors": b"w" * 99}


@pytest.fixture
def hub():
    with Hub() as running:
        running.add(str(REPO), FILES)
        yield running


@pytest.fixture
def source(hub):
    transport = Transport(AddressPolicy.of([hub.url]))
    yield registry.build([SourceConfig("ms", "modelscope", hub.url)], transport, {})[0]
    transport.close()


def resolve(source, revision=None):
    return source.resolve(REPO, revision, 30)


def answer(hub, document):
    hub.fault("status", plane="meta", status=200, body=json.dumps(document).encode())


def test_every_file_is_promised_by_sha256(source):
    assert all(file.sha256 and file.git_sha1 is None for file in resolve(source).files)


def test_commit_is_derived_from_path_size_and_digest():
    files = [RemoteFile("b", 2, "b" * 64), RemoteFile("a", 1, "a" * 64)]
    said = f"zhcache modelscope listing 1\na\x001\x00{'a' * 64}\nb\x002\x00{'b' * 64}\n"
    commit = modelscope.derived_commit(files)
    assert commit == hashlib.sha256(said.encode()).hexdigest()[:40]
    for changed in (RemoteFile("c", 2, "b" * 64), RemoteFile("b", 3, "b" * 64), RemoteFile("b", 2)):
        assert modelscope.derived_commit([changed, files[1]]) != commit


def test_commit_that_is_gone_is_not_taken_for_another(hub, source):
    before = resolve(source)
    hub.update(str(REPO), {"config.json": b"[]"})
    with pytest.raises(RepoUnavailable, match=before.commit):
        resolve(source, before.commit)


def test_listing_that_was_cut_is_walked_folder_by_folder(hub, source, monkeypatch):
    monkeypatch.setattr(modelscope, "CUT_AT", 10)
    hub.listing_cap = 10
    files = {
        f"d{d}/e{e}/f{n}.json": b"%d" % n for d in range(3) for e in range(3) for n in range(4)
    }
    files |= {"top.json": b"1", "d0/mid.json": b"2"}
    hub.add(str(REPO), files)
    assert {file.path for file in resolve(source).files} == set(files)


def test_listing_of_one_request_needs_one_request(hub, source):
    resolve(source)
    assert len(hub.requests) == 1
    assert "Recursive=True" in hub.requests[0].path


def test_folder_that_cannot_be_listed_whole_is_refused(hub, source, monkeypatch):
    monkeypatch.setattr(modelscope, "CUT_AT", 10)
    hub.listing_cap = 10
    hub.add(str(REPO), {f"f{n:02}.json": b"" for n in range(11)})
    with pytest.raises(RemoteInvalid, match="one folder"):
        resolve(source)


def test_walk_that_never_ends_is_refused(hub, source, monkeypatch):
    monkeypatch.setattr(modelscope, "CUT_AT", 2)
    entry = {"Path": "a/b", "Type": "tree"}
    answer(hub, {"Code": 200, "Success": True, "Data": {"Files": [entry] * 2}})
    with pytest.raises(RemoteInvalid):
        resolve(source)
    assert len(hub.requests) < 10


def test_403_at_random_is_asked_again(hub, source):
    hub.fault("status", plane="meta", status=403, times=2)
    assert len(resolve(source).files) == 2


def test_403_that_stays_is_believed(hub, source):
    hub.fault("status", plane="meta", status=403)
    with pytest.raises(RepoUnavailable) as caught:
        resolve(source)
    assert type(caught.value.error) is NotPermitted
    assert len(hub.requests) == 3


def test_private_repository_gets_the_token_only_after_a_refusal(hub):
    hub.add(str(REPO), FILES, private=True, token="ms_canary")
    transport = Transport(AddressPolicy.of([hub.url]))
    config = SourceConfig("ms", "modelscope", hub.url, token_env="T")
    source = registry.build([config], transport, {"T": "ms_canary"})[0]
    assert resolve(source).private
    sent = [request.headers.get("authorization") for request in hub.requests]
    assert sent == [None, "Bearer ms_canary"]
    hub.add(str(REPO), FILES)
    assert not resolve(source).private
    transport.close()


@pytest.mark.parametrize(
    "document",
    [
        {"Code": 200, "Success": False, "Data": {"Files": [ENTRY]}},
        {"Code": 10010205001, "Success": True, "Data": {"Files": [ENTRY]}},
        {"Code": 200, "Success": True, "Data": None},
        {"Code": 200, "Success": True},
        {"Code": 200, "Success": True, "Data": {"Files": None}},
        {"Code": 200, "Success": True, "Data": {"Files": {}}},
    ],
)
def test_answer_without_files_is_refused(hub, source, document):
    answer(hub, document)
    with pytest.raises(RemoteInvalid):
        resolve(source)


def test_failure_inside_a_successful_answer_is_seen(hub, source):
    answer(hub, {"Code": 404, "Success": False, "Message": "no", "Data": None})
    with pytest.raises(RepoUnavailable):
        resolve(source)
    hub.heal()
    answer(hub, {"Code": 10010205001, "Success": False, "Data": None})
    with pytest.raises(RepoUnavailable):
        resolve(source)
    hub.heal()
    answer(hub, {"Code": 500, "Success": False})
    with pytest.raises(StatusError):
        resolve(source)


def test_file_without_digest_is_listed_without_promise(hub, source):
    entry = ENTRY | {"Sha256": ""}
    answer(hub, {"Code": 200, "Success": True, "Data": {"Files": [entry]}})
    assert resolve(source).files[0].promise is None


def test_digest_in_capitals_is_the_same_digest(hub, source):
    entry = ENTRY | {"Sha256": "A" * 64}
    answer(hub, {"Code": 200, "Success": True, "Data": {"Files": [entry]}})
    assert resolve(source).files[0].sha256 == "a" * 64


@pytest.mark.parametrize(
    "path",
    ["unet/config.json", "a b.json", "中文/说明.txt", "a#b?c&d=e+f%20g", "~x", "é'(1)!*.json"],
)
@pytest.mark.parametrize("revision", ["master", "v1.0.8", "refs/pr/1"])
def test_locate_forms_the_address_the_official_client_forms(hub, source, path, revision):
    found = Resolution("ms", "modelscope", "lab/model", revision, "1" * 40, (), source.origin)
    client = LegacyClient(None, endpoint=hub.url)
    official = client.get_download_url("lab/model", "model", path, revision)
    assert source.locate(found, path).url == official
