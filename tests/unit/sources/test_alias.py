from zhcache.protocol.names import parse_repo
from zhcached.sources.alias import BUILT_IN, names_at


def names(repo, kind, configured=None):
    return [str(name) for name in names_at(parse_repo(repo), kind, configured)]


def test_names_at_gives_the_name_itself_when_nothing_is_known():
    assert names("owner/model", "huggingface") == ["owner/model"]


def test_names_at_tries_the_copy_before_the_deleted_repository():
    assert names("runwayml/stable-diffusion-v1-5", "huggingface") == [
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
    ]
    assert names("runwayml/stable-diffusion-v1-5", "modelscope")[0] == (
        "AI-ModelScope/stable-diffusion-v1-5"
    )


def test_names_at_puts_configuration_before_the_built_in_table():
    configured = {"runwayml/stable-diffusion-v1-5": {"huggingface": "lab/sd15"}}
    assert names("runwayml/stable-diffusion-v1-5", "huggingface", configured) == [
        "lab/sd15",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
    ]


def test_names_at_repeats_no_name():
    configured = {"owner/model": {"huggingface": "owner/model"}}
    assert names("owner/model", "huggingface", configured) == ["owner/model"]


def test_built_in_table_is_large_and_holds_only_names():
    assert len(BUILT_IN) >= 15
    for repo, by_kind in BUILT_IN.items():
        assert str(parse_repo(repo)) == repo
        assert by_kind.keys() <= {"huggingface", "modelscope"}
        for kind, name in by_kind.items():
            assert names(repo, kind)[0] == name


def test_peer_or_folder_is_asked_for_every_name_that_a_hub_has():
    names = [str(name) for name in names_at(parse_repo("runwayml/stable-diffusion-v1-5"), "peer")]
    assert names == [
        "runwayml/stable-diffusion-v1-5",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "AI-ModelScope/stable-diffusion-v1-5",
    ]
