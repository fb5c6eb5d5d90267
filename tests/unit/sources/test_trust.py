import pytest

from zhcache.errors import IntegrityError, NotFound
from zhcache.protocol.messages import LockedFile, LockedRepo
from zhcached.sources.base import RemoteFile, Resolution
from zhcached.sources.trust import compare, is_document
from zhcached.transport.address import Origin

A, B, C = "a" * 64, "b" * 64, "c" * 64
GIT_A, GIT_B = "1" * 40, "2" * 40
COMMIT, OTHER_COMMIT = "d" * 40, "e" * 40
UNET = "unet/diffusion_pytorch_model.safetensors"


def said(source, *files, kind="huggingface", commit=COMMIT, host=None):
    listed = tuple(RemoteFile(*file) for file in files)
    origin = Origin.parse(f"https://{host or source}.example")
    return Resolution(source, kind, "o/m", "main", commit, listed, origin)


def modelscope(source, *files, commit=OTHER_COMMIT):
    return said(source, *files, kind="modelscope", commit=commit)


def only(comparison):
    assert len(comparison.files) == 1
    return comparison.files[0]


def test_single_source_is_first_use():
    found = compare([said("hf", (UNET, 5, A))], [UNET])
    assert found.grade == "first-use"
    assert only(found).served_by == ("hf",)


def test_two_origins_with_one_digest_are_a_quorum():
    found = compare([said("hf", (UNET, 5, A)), modelscope("ms", (UNET, 5, A))], [UNET])
    assert found.grade == "quorum"
    assert only(found).served_by == ("hf", "ms")
    assert not found.warnings


def test_two_sources_at_one_origin_are_no_quorum():
    both = [said("one", (UNET, 5, A), host="x"), said("two", (UNET, 5, A), host="x")]
    found = compare(both, [UNET])
    assert found.grade == "first-use"
    assert only(found).served_by == ("one", "two")


def test_reupload_that_differs_does_not_serve_and_is_warned_of():
    found = compare([said("hf", (UNET, 5, A)), modelscope("ms", (UNET, 5, B))], [UNET])
    assert found.grade == "first-use"
    assert only(found).promise.sha256 == A
    assert only(found).served_by == ("hf",)
    assert not found.liars
    assert "ms" in found.warnings[0]


def test_another_size_is_another_file():
    found = compare([said("hf", (UNET, 5, A)), modelscope("ms", (UNET, 6, A))], [UNET])
    assert only(found).served_by == ("hf",)


def test_same_commit_with_different_digests_is_a_proof_and_a_tie_stops():
    with pytest.raises(IntegrityError) as caught:
        compare([said("mirror", (UNET, 5, B)), said("hf", (UNET, 5, A))], [UNET])
    assert "mirror" in caught.value.message
    assert "hf" in caught.value.message


def test_majority_at_one_commit_names_the_liar():
    sources = [said("mirror", (UNET, 5, B)), said("hf", (UNET, 5, A)), said("third", (UNET, 5, A))]
    found = compare(sources, [UNET])
    assert set(found.liars) == {"mirror"}
    assert only(found).promise.sha256 == A
    assert only(found).served_by == ("hf", "third")
    assert found.grade == "quorum"
    assert "mirror" in found.warnings[0]


def test_liar_serves_no_file_at_all():
    honest = [said(n, (UNET, 5, A), ("vae/x.json", 1, C)) for n in ("hf", "third")]
    mirror = said("mirror", (UNET, 5, B), ("vae/x.json", 1, C))
    found = compare([mirror, *honest], [UNET, "vae/x.json"])
    assert all("mirror" not in file.served_by for file in found.files)


def test_source_of_another_kind_breaks_the_tie():
    sources = [
        said("mirror", (UNET, 5, B)),
        said("hf", (UNET, 5, A)),
        modelscope("ms", (UNET, 5, A)),
    ]
    assert set(compare(sources, [UNET]).liars) == {"mirror"}


def test_two_mirrors_at_one_origin_do_not_outvote():
    mirrors = [said("one", (UNET, 5, B), host="x"), said("two", (UNET, 5, B), host="x")]
    with pytest.raises(IntegrityError):
        compare([*mirrors, said("hf", (UNET, 5, A))], [UNET])


def test_lie_about_a_file_nobody_wants_is_no_matter():
    sources = [
        said("mirror", (UNET, 5, A), ("x.ckpt", 9, B)),
        said("hf", (UNET, 5, A), ("x.ckpt", 9, C)),
    ]
    assert compare(sources, [UNET]).grade == "quorum"


def test_different_commits_of_one_kind_prove_nothing():
    sources = [said("mirror", (UNET, 5, B), commit=OTHER_COMMIT), said("hf", (UNET, 5, A))]
    found = compare(sources, [UNET])
    assert not found.liars
    assert only(found).promise.sha256 == B


def test_git_digest_and_sha256_are_both_required_and_count_as_quorum():
    sources = [
        said("hf", ("unet/config.json", 5, None, GIT_A)),
        modelscope("ms", ("unet/config.json", 5, A)),
    ]
    found = compare(sources, ["unet/config.json"])
    assert only(found).promise.sha256 == A
    assert only(found).promise.git_sha1 == GIT_A
    assert only(found).first_promise.sha256 is None
    assert only(found).served_by == ("hf", "ms")
    assert found.grade == "quorum"


def test_second_contradicting_sha256_is_left_aside_after_a_merge():
    name = "unet/config.json"
    sources = [
        said("hf", (name, 5, None, GIT_A)),
        modelscope("one", (name, 5, A)),
        modelscope("two", (name, 5, B)),
    ]
    found = compare(sources, [name])
    assert only(found).served_by == ("hf", "one")
    assert "two" in found.warnings[0]


def test_different_git_digests_at_one_commit_are_a_proof():
    name = "model_index.json"
    with pytest.raises(IntegrityError):
        compare([said("m", (name, 5, None, GIT_A)), said("hf", (name, 5, None, GIT_B))], [name])


def test_documents_do_not_decide_the_grade():
    hf = said("hf", (UNET, 5, A), ("README.md", 3, C))
    ms = modelscope("ms", (UNET, 5, A), ("README.md", 4, B))
    found = compare([hf, ms], [UNET, "README.md"])
    assert found.grade == "quorum"
    assert found.files[1].grade == "first-use"
    assert found.files[1].served_by == ("hf",)
    assert not found.warnings


def test_file_only_one_source_has_lowers_the_grade():
    hf = said("hf", (UNET, 5, A), ("vae/config.json", 3, C))
    found = compare([hf, modelscope("ms", (UNET, 5, A))], [UNET, "vae/config.json"])
    assert found.grade == "first-use"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("README.md", True),
        ("README_zh.md", True),
        ("LICENSE.txt", True),
        (".gitattributes", True),
        ("configuration.json", True),
        ("assets/x.PNG", True),
        ("model_index.json", False),
        ("config.json", False),
        ("tokenizer/merges.txt", False),
        ("pipeline.py", False),
    ],
)
def test_is_document_knows_what_is_only_read_by_people(path, expected):
    assert is_document(path) is expected


def test_silent_source_may_serve_but_vouches_for_nothing():
    found = compare([said("hf", (UNET, 5, A)), modelscope("ms", (UNET, 5))], [UNET])
    assert only(found).served_by == ("hf", "ms")
    assert found.grade == "first-use"


def test_file_nobody_promises_is_refused():
    with pytest.raises(IntegrityError):
        compare([modelscope("ms", (UNET, 5))], [UNET])


def test_path_nobody_lists_is_not_found():
    with pytest.raises(NotFound):
        compare([said("hf", (UNET, 5, A))], ["x.json"])


def locked(*files):
    return LockedRepo(
        repo="o/m",
        revision="main",
        commit=COMMIT,
        files=[LockedFile(path=p, size=s, sha256=d) for p, s, d in files],
    )


def test_lock_pins_and_excludes_whoever_differs():
    sources = [said("mirror", (UNET, 5, B)), modelscope("ms", (UNET, 5, A))]
    found = compare(sources, [UNET], lock=locked((UNET, 5, A)))
    assert found.grade == "pinned"
    assert only(found).promise.sha256 == A
    assert only(found).served_by == ("ms",)
    assert "mirror" in found.warnings[0]


def test_lock_catches_a_consistent_liar():
    sources = [said("one", (UNET, 5, B)), said("two", (UNET, 5, B))]
    assert compare(sources, [UNET]).grade == "quorum"
    with pytest.raises(IntegrityError, match="one, two"):
        compare(sources, [UNET], lock=locked((UNET, 5, A)))


def test_lock_supplies_the_digest_of_a_git_file():
    found = compare(
        [said("hf", ("x.json", 5, None, GIT_A))], ["x.json"], lock=locked(("x.json", 5, A))
    )
    assert only(found).promise.sha256 == A
    assert only(found).served_by == ("hf",)


def test_lock_refuses_a_file_it_does_not_name():
    with pytest.raises(IntegrityError, match=r"vae/x\.json"):
        compare([said("hf", ("vae/x.json", 5, A))], ["vae/x.json"], lock=locked((UNET, 5, A)))


def test_lock_refuses_another_size():
    with pytest.raises(IntegrityError):
        compare([said("hf", (UNET, 6, A))], [UNET], lock=locked((UNET, 5, A)))
