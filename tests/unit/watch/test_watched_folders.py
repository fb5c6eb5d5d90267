"""Models that are put into a watched folder are taken in, once they are whole."""

import pytest

from harness.watchkit import hub_cache, lay, pipeline, watching, weights


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "in"
    made.mkdir()
    return made


@pytest.fixture
def watched(tmp_path, folder):
    with watching(tmp_path / "store", folder) as started:
        yield started


def test_plain_folder_is_taken_in(watched, folder):
    lay(folder / "org" / "tiny", pipeline())
    lay(folder / "solo", {"config.json": b"{}", "model.safetensors": weights()})
    model = watched.wait("org/tiny", "taken")
    assert model.repo == "org/tiny"
    assert watched.wait("solo", "taken").repo == "local/solo"
