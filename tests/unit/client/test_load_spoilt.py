"""``load_pipeline`` of a folder that was published spoilt, or with options that cannot be meant."""

from pathlib import Path
from typing import Any

import pytest

import zhcache
from harness.spoilt import GAPS, WAYS, spoilt
from simulators.daemon import DaemonSimulator
from zhcache.errors import Incomplete, IntegrityError, NoSpace, UsageError, ZhcacheError
from zhcache.pipeline.refusals import told

REPO = "demo/spoilt"


@pytest.mark.parametrize("way", WAYS)
def test_spoilt_folder_is_refused_with_its_reason(
    daemon: DaemonSimulator, pipeline_dir: Path, tmp_path: Path, way: str
) -> None:
    daemon.hold(REPO, spoilt(pipeline_dir, tmp_path, way))
    _, code, words = WAYS[way]
    with pytest.raises(ZhcacheError, match=words) as refused:
        zhcache.load_pipeline(REPO, device="cpu")
    assert refused.value.code == code
    assert refused.value.hint
    assert daemon.submitted == []
    assert daemon.lease_ended.wait(10)


@pytest.mark.parametrize("way", GAPS)
def test_what_the_index_names_and_fetching_does_not_bring_is_told(
    daemon: DaemonSimulator, pipeline_dir: Path, tmp_path: Path, way: str
) -> None:
    daemon.hold(REPO, spoilt(pipeline_dir, tmp_path, way))
    with pytest.raises(Incomplete, match=GAPS[way][2]) as refused:
        zhcache.load_pipeline(REPO, device="cpu")
    assert "zhcache prefetch" in refused.value.hint
    assert len(daemon.submitted) == 1


@pytest.mark.parametrize("way", GAPS)
def test_what_an_option_stands_in_for_may_be_missing(
    daemon: DaemonSimulator, pipeline_dir: Path, tmp_path: Path, way: str
) -> None:
    from diffusers import UNet2DConditionModel

    daemon.hold(REPO, spoilt(pipeline_dir, tmp_path, way))
    own = UNet2DConditionModel.from_pretrained(str(pipeline_dir), subfolder="unet")
    assert zhcache.load_pipeline(REPO, device="cpu", unet=own).unet is own
    with pytest.raises(UsageError, match="cannot be made with scheduler=, unet=:"):
        zhcache.load_pipeline(REPO, device="cpu", unet=own, scheduler="DDIM")


@pytest.mark.parametrize("way", ["missing key", "wrong shape", "truncated"])
def test_options_are_not_blamed_for_what_the_files_are(
    daemon: DaemonSimulator, pipeline_dir: Path, tmp_path: Path, way: str
) -> None:
    daemon.hold(REPO, spoilt(pipeline_dir, tmp_path, way))
    with pytest.raises(IntegrityError, match=WAYS[way][2]):
        zhcache.load_pipeline(REPO, device="cpu", safety_checker=None, feature_extractor=None)


@pytest.mark.parametrize(
    "options",
    [{"scheduler": "DDIM"}, {"unet": 3}, {"quantization_config": 3}, {"custom_pipeline": "none"}],
)
def test_option_that_stock_refuses_is_named(
    daemon: DaemonSimulator,
    pipeline_dir: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Stock would ask the hub for a pipeline of that name, again and again.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    daemon.hold(REPO, pipeline_dir)
    with pytest.raises(UsageError, match=f"cannot be made with {next(iter(options))}=:") as refused:
        zhcache.load_pipeline(REPO, device="cpu", **options)
    assert refused.value.__cause__ is not None


def test_what_is_no_fault_of_the_files_keeps_its_name(pipeline_dir: Path) -> None:
    for raised, kind in (
        (MemoryError(), NoSpace),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), NoSpace),
        (ImportError("sentencepiece"), UsageError),
        (IntegrityError("as it is"), IntegrityError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        with pytest.raises(kind) as refused, told(pipeline_dir, ["scheduler"]):
            raise raised
        assert refused.value is raised or refused.value.__cause__ is raised
