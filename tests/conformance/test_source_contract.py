"""What every source must do, whatever its protocol; a source joins by one line in KINDS."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from corpora.hostile_names import HARMLESS_NAMES, HOSTILE_NAMES
from demohub import Hub
from zhcache.errors import Gated, NotFound, NotPermitted
from zhcache.protocol.names import parse_repo, parse_revision
from zhcached.config import SourceConfig
from zhcached.errors import RemoteInvalid, RepoUnavailable, StatusError, TransportError
from zhcached.sources import listing, registry
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport

REPO = parse_repo("lab/model")
TOKEN = "hf_canary0123456789"
FILES = {
    "model_index.json": b'{"_class_name": "X"}',
    "README.md": b"# model\n",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": bytes(range(256)) * 64,
}


def huggingface_entry(path, size, digest):
    return {"type": "file", "path": path, "size": size, "oid": digest}


def modelscope_entry(path, size, digest):
    return {"Type": "blob", "Path": path, "Size": size, "Sha256": digest}


@dataclass(frozen=True)
class Kind:
    """How to speak to a source's hub in its own words.

    ``requests_before`` is how many requests a resolution makes before the listing.
    """

    name: str
    requests_before: int
    good_digest: str
    entry: Callable[[str, object, object], dict]
    wrap: Callable[[list], object]


KINDS = [
    Kind("huggingface", 1, "b" * 40, huggingface_entry, lambda entries: entries),
    Kind(
        "modelscope",
        0,
        "a" * 64,
        modelscope_entry,
        lambda entries: {"Code": 200, "Success": True, "Data": {"Files": entries}},
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture
def hub():
    with Hub(page_size=3) as running:
        running.add(str(REPO), FILES)
        yield running


@pytest.fixture
def transport():
    """Allows every origin a test names, as a configuration would."""
    made = []

    def allow(*hubs):
        transport = Transport(AddressPolicy.of(hub.url for hub in hubs), connect_timeout_s=5)
        made.append(transport)
        return transport

    yield allow
    for one in made:
        one.close()


@pytest.fixture
def ask(kind, hub, transport):
    """Resolves the repository at the hub."""

    def resolve(revision=None, *, token=None, deadline_s=20.0, others=()):
        config = SourceConfig("src", kind.name, hub.url, token_env="TOKEN" if token else None)
        environ = {"TOKEN": token} if token else {}
        resolve.source = registry.build([config], transport(hub, *others), environ)[0]
        wanted = parse_revision(revision) if revision else None
        return resolve.source.resolve(REPO, wanted, deadline_s)

    return resolve


def refused(ask, error, **options):
    with pytest.raises(RepoUnavailable) as caught:
        ask(**options)
    assert isinstance(caught.value.error, error)
    assert caught.value.error.code == error.code
    assert caught.value.source == "src"
    assert caught.value.error.hint
    return caught.value.error


def answer_listing(hub, kind, entries):
    body = json.dumps(kind.wrap(entries)).encode()
    hub.fault("status", plane="meta", after=kind.requests_before, status=200, body=body)


def promises(resolution):
    return {f.path: (f.size, f.sha256, f.git_sha1) for f in resolution.files}


def test_resolve_promises_size_and_digest_of_every_file(ask, hub):
    found = ask()
    stored = hub.repo(str(REPO), "huggingface").files
    assert [file.path for file in found.files] == sorted(FILES)
    for file in found.files:
        truth = stored[file.path]
        assert file.size == len(FILES[file.path])
        assert file.sha256 in (None, truth.sha256)
        assert file.git_sha1 in (None, truth.git_sha1)
        assert file.promise is not None
    assert not found.private
    assert not found.warnings


def test_resolve_makes_no_request_for_each_file(ask, hub, kind):
    hub.add(str(REPO), {f"f{n:02}.json": b"x" for n in range(30)})
    hub.page_size = 1000
    ask()
    assert len(hub.requests) == kind.requests_before + 1


def test_resolve_takes_every_default_branch_name_for_the_same(ask):
    commits = {ask(revision).commit for revision in (None, "main", "master")}
    assert len(commits) == 1
    assert len(commits.pop()) == 40


def test_resolve_finds_a_tag_and_a_commit(ask, hub):
    hub.repo(str(REPO), "huggingface").point("v1.0", tag=True)
    before = ask()
    assert promises(ask("v1.0")) == promises(before)
    assert ask(before.commit).commit == before.commit


def test_resolve_gives_changed_content_another_commit(ask, hub):
    before = ask()
    hub.update(str(REPO), {"unet/config.json": b"{ }"})
    after = ask()
    assert before.commit != after.commit
    assert promises(before) != promises(after)


def test_resolve_reports_a_missing_revision_as_such(ask):
    error = refused(ask, NotFound, revision="v9")
    assert "v9" in error.message


def test_resolve_reports_a_commit_that_is_not_there(ask):
    refused(ask, NotFound, revision="0" * 40)


def test_resolve_reports_a_missing_repository_and_that_it_may_be_private(ask, hub):
    hub.remove(str(REPO))
    assert "private" in refused(ask, NotFound).hint


def test_resolve_takes_a_bare_401_for_not_found(ask, hub):
    hub.remove(str(REPO))
    hub.bare_401 = True
    assert "private" in refused(ask, NotFound).hint


def test_resolve_sees_a_private_repository_only_with_its_token(ask, hub):
    hub.add(str(REPO), FILES, private=True, token=TOKEN)
    refused(ask, NotFound)
    assert ask(token=TOKEN).private


def test_resolve_blames_the_token_when_it_is_wrong(ask, hub, kind):
    hub.add(str(REPO), FILES, private=True, token=TOKEN)
    assert "token" in refused(ask, Gated, token="hf_wrong").message


def test_resolve_refuses_a_token_no_header_can_carry(ask, hub):
    hub.add(str(REPO), FILES, private=True, token=TOKEN)
    error = refused(ask, Gated, token="hf_a\r\nX-Evil: 1")
    assert "Evil" not in str(error)


def test_resolve_reports_a_repository_that_was_taken_down(ask, hub):
    hub.add(str(REPO), FILES, disabled=True)
    error = refused(ask, NotPermitted)
    assert error.exit_code == 8


def test_resolve_passes_on_how_long_to_wait(ask, hub):
    hub.fault("status", plane="meta", status=429, headers={"Retry-After": "11"})
    with pytest.raises(StatusError) as caught:
        ask()
    assert (caught.value.status, caught.value.retry_after_s) == (429, 11.0)
    assert caught.value.source == "src"


def test_resolve_refuses_a_listing_with_a_hostile_name(ask, hub, kind):
    ask()
    accepted = []
    for case, name in HOSTILE_NAMES.items():
        entries = [kind.entry(n, 1, kind.good_digest) for n in ("model_index.json", name)]
        answer_listing(hub, kind, entries)
        try:
            ask.source.resolve(REPO, None, 20)
            accepted.append(case)
        except RemoteInvalid as error:
            assert error.source == "src"
        hub.heal()
    assert accepted == []


def test_resolve_accepts_odd_names_and_locates_their_bytes(ask, hub, transport):
    odd = [*HARMLESS_NAMES, "a#b?c&d=e+f%20g.json", "unet/ü ö.json", "50%.txt", "a;b,c.json"]
    hub.add(str(REPO), {name: name.encode() for name in odd})
    hub.page_size = 1000
    found = ask()
    assert [file.path for file in found.files] == sorted(odd)
    wire = transport(hub)
    for name in odd:
        with wire.open(ask.source.locate(found, name)) as response:
            assert response.status == 200, name
            assert response.read_limited(10_000) == name.encode()


@pytest.mark.parametrize("second", ["unet", "unet/config.json/x"])
def test_resolve_refuses_a_name_that_is_file_and_folder(ask, hub, kind, second):
    names = ["unet/config.json", second]
    answer_listing(hub, kind, [kind.entry(name, 1, kind.good_digest) for name in names])
    with pytest.raises(RemoteInvalid, match="file and as a folder"):
        ask()


def test_resolve_refuses_a_name_that_stands_twice(ask, hub, kind):
    answer_listing(hub, kind, [kind.entry("x.json", 1, kind.good_digest)] * 2)
    with pytest.raises(RemoteInvalid, match="twice"):
        ask()


@pytest.mark.parametrize("size", [-1, 2**41, 10**40, 1.5, 1.0, "1", True, None, [1]], ids=repr)
def test_resolve_refuses_an_impossible_size(ask, hub, kind, size):
    answer_listing(hub, kind, [kind.entry("x.json", size, kind.good_digest)])
    with pytest.raises(RemoteInvalid):
        ask()


@pytest.mark.parametrize("digest", ["zz", "a" * 41, "a" * 63, "g" * 64, 5, "../" * 10], ids=repr)
def test_resolve_refuses_a_malformed_digest(ask, hub, kind, digest):
    answer_listing(hub, kind, [kind.entry("x.json", 1, digest)])
    with pytest.raises(RemoteInvalid):
        ask()


def test_resolve_refuses_more_files_than_the_limit(ask, hub, kind):
    count = listing.MAX_FILES + 1
    answer_listing(hub, kind, [kind.entry(f"{n}.json", 1, kind.good_digest) for n in range(count)])
    with pytest.raises(RemoteInvalid):
        ask()


def test_resolve_refuses_an_empty_listing(ask, hub, kind):
    answer_listing(hub, kind, [])
    with pytest.raises(RemoteInvalid, match="empty"):
        ask()


@pytest.mark.parametrize(
    ("fault", "params"),
    [
        ("deep_json", {}),
        ("html", {}),
        ("status", {"status": 200, "body": b"not json"}),
        ("status", {"status": 200, "body": b""}),
        ("status", {"status": 200, "body": b"[1, 2]"}),
        ("status", {"status": 200, "body": b'{"sha": 5, "id": null, "Code": "x"}'}),
        ("status", {"status": 204, "body": b""}),
    ],
)
def test_resolve_refuses_what_is_no_listing(ask, hub, kind, fault, params):
    for after in range(kind.requests_before + 1):
        standing = hub.fault(fault, plane="meta", after=after, **params)
        started = time.monotonic()
        with pytest.raises(RemoteInvalid):
            ask()
        assert time.monotonic() - started < 5
        hub.heal(standing)


def test_resolve_stops_reading_a_page_that_is_too_large(ask, hub, kind):
    for after in range(kind.requests_before + 1):
        standing = hub.fault("huge_listing", after=after, bytes=listing.MAX_PAGE_BYTES + 1)
        with pytest.raises(RemoteInvalid, match="longer than"):
            ask()
        hub.heal(standing)


def test_resolve_ends_at_its_deadline_when_the_hub_falls_silent(ask, hub):
    hub.fault("delay", plane="meta", seconds=30)
    started = time.monotonic()
    with pytest.raises(TransportError) as caught:
        ask(deadline_s=0.5)
    assert time.monotonic() - started < 5
    assert caught.value.source == "src"


def test_resolve_ends_at_its_deadline_when_the_head_trickles(ask, hub):
    hub.fault("slow_header", plane="meta", interval=0.2)
    started = time.monotonic()
    with pytest.raises(TransportError):
        ask(deadline_s=0.8)
    assert time.monotonic() - started < 5


def test_resolve_reports_a_hub_that_is_not_there(ask, hub):
    hub.stop()
    with pytest.raises(TransportError) as caught:
        ask()
    assert caught.value.source == "src"


def test_token_stays_at_its_origin_when_the_listing_is_redirected(ask, hub, kind):
    hub.add(str(REPO), FILES, private=True, token=TOKEN)
    with Hub(name="thief") as thief:
        thief.add(str(REPO), FILES)
        location = thief.url + "/api/models/lab/model"
        hub.fault("redirect", plane="meta", after=1, to=location)
        with pytest.raises((RemoteInvalid, RepoUnavailable)):
            ask(token=TOKEN, others=[thief])
        assert len(thief.requests) >= 1
        assert TOKEN not in repr([request.headers for request in thief.requests])
    assert TOKEN in repr([request.headers for request in hub.requests])


def test_token_stays_at_its_origin_when_the_bytes_are_elsewhere(ask, hub, transport):
    with Hub(name="storage") as storage:
        hub.add(str(REPO), FILES, private=True, token=TOKEN, data_hub=storage)
        found = ask(token=TOKEN, others=[storage])
        name = "unet/diffusion_pytorch_model.safetensors"
        target = ask.source.locate(found, name)
        assert TOKEN not in repr(target) + repr(found) + repr(vars(ask.source))
        with transport(hub, storage).open(target) as response:
            assert response.read_limited(10**6) == FILES[name]
        assert storage.requests
        assert TOKEN not in repr([request.headers for request in storage.requests])


def test_token_is_read_at_each_call(kind, hub, transport):
    hub.add(str(REPO), FILES, private=True, token=TOKEN)
    environ = {}
    config = SourceConfig("src", kind.name, hub.url, token_env="TOKEN")
    source = registry.build([config], transport(hub), environ)[0]
    with pytest.raises(RepoUnavailable):
        source.resolve(REPO, None, 20)
    environ["TOKEN"] = TOKEN
    assert source.resolve(REPO, None, 20).private


def test_no_token_is_sent_where_none_is_configured(ask, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    ask()
    assert all("authorization" not in request.headers for request in hub.requests)


def test_source_may_be_asked_by_many_threads(ask):
    first = ask()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(ask.source.resolve(REPO, None, 30)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [resolution.commit for resolution in found] == [first.commit] * 8
