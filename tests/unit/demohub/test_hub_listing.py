"""Listings of both protocols, and who may see them."""

from __future__ import annotations

import hashlib
import json
import urllib.request

import pytest

from demohub import Hub

FILES = {"a.json": b"{}", "unet/config.json": b"{}", "unet/w.safetensors": b"\0" * 100}


def test_tree_tells_digests_and_folders(hub, ask):
    commit = hub.add("o/n", FILES).commit
    entries = json.loads(ask(hub, f"/api/models/o/n/tree/{commit}?recursive=true").body)
    assert [entry["path"] for entry in entries] == ["unet", *sorted(FILES)]
    weights = entries[-1]
    assert weights["lfs"]["oid"] == hashlib.sha256(b"\0" * 100).hexdigest()
    assert weights["oid"] != weights["lfs"]["oid"]
    assert "lfs" not in entries[1]


def test_tree_of_a_folder_shows_that_folder(hub, ask):
    hub.add("o/n", FILES)
    entries = json.loads(ask(hub, "/api/models/o/n/tree/main/unet").body)
    assert [entry["path"] for entry in entries] == ["unet/config.json", "unet/w.safetensors"]
    assert ask(hub, "/api/models/o/n/tree/main/none").headers["X-Error-Code"] == "EntryNotFound"


def test_tree_pages_are_linked_to_the_end():
    with Hub(page_size=7) as hub:
        hub.add("o/n", {f"{n:03}.txt": b"" for n in range(30)})
        url, seen = f"{hub.url}/api/models/o/n/tree/main?recursive=true&expand=false", []
        while url:
            with urllib.request.urlopen(url) as page:
                seen += [entry["path"] for entry in json.load(page)]
                link = page.headers["Link"]
            url = link and link.removeprefix("<").partition(">")[0]
        assert seen == [f"{n:03}.txt" for n in range(30)]
        assert len(hub.requests) == 5


def test_model_info_with_blobs_tells_sizes(hub, ask):
    hub.add("o/n", FILES)
    plain = json.loads(ask(hub, "/api/models/o/n").body)
    full = json.loads(ask(hub, "/api/models/o/n?blobs=true").body)
    assert plain["siblings"][0] == {"rfilename": "a.json"}
    assert full["siblings"][2]["lfs"]["size"] == 100


def test_modelscope_listing_has_a_sha256_for_every_file(hub, ask):
    hub.add("o/n", FILES)
    reply = ask(hub, "/api/v1/models/o/n/repo/files?Revision=master&Recursive=True")
    entries = json.loads(reply.body)["Data"]["Files"]
    blobs = {entry["Path"]: entry["Sha256"] for entry in entries if entry["Type"] == "blob"}
    assert blobs == {path: hashlib.sha256(FILES[path]).hexdigest() for path in FILES}
    below = ask(hub, "/api/v1/models/o/n/repo/files?Revision=master&Root=unet")
    assert len(json.loads(below.body)["Data"]["Files"]) == 2


def test_modelscope_listing_is_cut_without_a_word(ask):
    with Hub(listing_cap=10) as hub:
        hub.add("o/n", {f"{n}.txt": b"" for n in range(30)})
        reply = ask(hub, "/api/v1/models/o/n/repo/files?Recursive=True")
        assert len(json.loads(reply.body)["Data"]["Files"]) == 10


def test_modelscope_file_revision_is_the_commit_that_changed_it(hub, ask):
    first = hub.add("o/n", FILES).commit
    second = hub.update("o/n", {"a.json": b"[]"}).commit
    reply = ask(hub, "/api/v1/models/o/n/repo/files?Recursive=True")
    revisions = {e["Path"]: e["Revision"] for e in json.loads(reply.body)["Data"]["Files"]}
    assert (revisions["a.json"], revisions["unet/config.json"]) == (second, first)


def test_modelscope_revisions_tell_branches_from_tags(hub, ask):
    hub.add("o/n", FILES).point("v1", tag=True)
    shown = json.loads(ask(hub, "/api/v1/models/o/n/revisions").body)["Data"]["RevisionMap"]
    names = {kind: [entry["Revision"] for entry in shown[kind]] for kind in shown}
    assert names == {"Branches": ["master"], "Tags": ["v1"]}


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/api/models/o/none", 401, "RepoNotFound"),
        ("/api/models/o/n/revision/none", 404, "RevisionNotFound"),
        ("/api/models/o/n/revision/master", 404, "RevisionNotFound"),
        ("/o/n/resolve/main/none.json", 404, "EntryNotFound"),
        ("/api/agent-harnesses", 404, None),
        ("/api/v1/models/o/none/repo/files", 404, None),
        ("/api/v1/models/o/n/repo?Revision=main&FilePath=a.json", 404, None),
    ],
)
def test_missing_thing_is_named(hub, ask, target, status, code):
    hub.add("o/n", FILES)
    reply = ask(hub, target)
    assert (reply.status, reply.headers["X-Error-Code"]) == (status, code)


def test_missing_repository_is_a_bare_401_as_on_the_real_hub(ask):
    with Hub(bare_401=True) as hub:
        reply = ask(hub, "/api/models/o/none")
        assert (reply.status, reply.headers["X-Error-Code"]) == (401, None)


def test_repository_is_missing_where_its_protocol_is_not_spoken(hub, ask):
    hub.add("o/n", FILES, protocols={"modelscope"})
    assert ask(hub, "/api/models/o/n").status == 401
    assert ask(hub, "/api/v1/models/o/n/revisions").status == 200


def test_private_repository_shows_itself_to_its_token_alone(hub, ask):
    hub.add("o/n", FILES, private=True, token="right")
    hub.add("o/else", FILES, private=True, token="else")
    assert ask(hub, "/api/models/o/n").headers["X-Error-Code"] == "RepoNotFound"
    wrong = ask(hub, "/api/models/o/n", Authorization="Bearer wrong")
    assert "Invalid credentials" in wrong.headers["X-Error-Message"]
    other = ask(hub, "/api/models/o/n", Authorization="Bearer else")
    assert (other.status, other.headers["X-Error-Code"]) == (404, "RepoNotFound")
    assert ask(hub, "/api/models/o/n", Authorization="Bearer right").status == 200
    listing = "/api/v1/models/o/n/repo/files"
    assert ask(hub, listing).status == 404
    assert ask(hub, listing, Cookie="a=b; m_session_id=right").status == 200


def test_gate_guards_the_files_and_not_the_listing(hub, ask):
    hub.add("o/n", FILES, gated=True, token="right")
    hub.tokens.add("else")
    assert ask(hub, "/api/models/o/n").status == 200
    target = "/o/n/resolve/main/a.json"
    assert ask(hub, target).headers["X-Error-Code"] == "GatedRepo"
    assert (ask(hub, target).status, ask(hub, target, Authorization="Bearer else").status) == (
        401,
        403,
    )
    assert ask(hub, target, Authorization="Bearer right").body == b"{}"
    assert ask(hub, "/api/v1/models/o/n/repo?FilePath=a.json").status == 403


def test_gate_guards_the_listing_when_asked_to(hub, ask):
    hub.add("o/n", FILES, gated="listing")
    assert ask(hub, "/api/models/o/n").headers["X-Error-Code"] == "GatedRepo"


def test_disabled_repository_says_so(hub, ask):
    hub.add("o/n", FILES, disabled=True)
    reply = ask(hub, "/api/models/o/n")
    assert (reply.status, reply.headers["X-Error-Message"]) == (
        403,
        "Access to this resource is disabled.",
    )


def test_renamed_repository_redirects_api_and_files(hub, ask):
    hub.add("o/old", FILES)
    hub.rename("o/old", "o/new")
    assert (
        ask(hub, "/api/models/o/old/tree/main").headers["Location"] == "/api/models/o/new/tree/main"
    )
    assert (
        ask(hub, "/o/old/resolve/main/a.json").headers["Location"] == "/o/new/resolve/main/a.json"
    )
    assert ask(hub, "/o/new/resolve/main/a.json").body == b"{}"


def test_one_word_repository_is_served(hub, ask):
    hub.add("gpt2", FILES)
    assert ask(hub, "/api/models/gpt2/revision/main").status == 200
    assert ask(hub, "/gpt2/resolve/main/a.json").body == b"{}"


def test_paths_info_tells_of_those_asked_for(hub):
    hub.add("o/n", FILES)
    body = b"paths=a.json&paths=unet&paths=none&expand=false"
    with urllib.request.urlopen(f"{hub.url}/api/models/o/n/paths-info/main", body) as reply:
        entries = json.load(reply)
    assert [(e["type"], e["path"]) for e in entries] == [("file", "a.json"), ("directory", "unet")]
