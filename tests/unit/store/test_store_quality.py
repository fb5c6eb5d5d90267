"""What was measured of a variant: kept with it, shown with it, gone with it."""

import pytest

from harness.storekit import COMMIT, MADE, REPO, open_store, publish_tiny, publish_variant
from zhcache.protocol.variants import Quality

FOUND = Quality(
    pairs=8,
    psnr=41.5,
    psnr_least=38.0,
    ssim=0.99,
    ssim_least=0.97,
    latent_cosine=None,
    latent_cosine_least=None,
    seconds=1.5,
    seconds_source=2.0,
)


@pytest.fixture
def measured(store):
    publish_tiny(store)
    publish_variant(store)
    store.qualities.keep(REPO, MADE, FOUND)
    return store


def shown(store):
    (snapshot,) = store.snapshots()
    (made,) = snapshot.variants.values()
    (detailed,) = store.detail(REPO, COMMIT).variants.values()
    assert made.quality == detailed.quality
    return made.quality


def test_measured_is_shown_and_outlives_the_index(measured, clock):
    assert shown(measured) == FOUND
    root = measured.layout.root
    measured.close()
    (root / "index.sqlite").unlink()
    again = open_store(root, clock)
    assert shown(again) == FOUND
    again.close()


def test_newest_is_kept(measured):
    better = Quality(**{**{f: getattr(FOUND, f) for f in FOUND.__struct_fields__}, "psnr": 50.0})
    measured.qualities.keep(REPO, MADE, better)
    assert shown(measured) == better


def test_damaged_record_is_none(measured):
    path = measured.layout.repo(REPO) / "quality" / f"{MADE}.json"
    path.write_bytes(b'{"pairs":')
    assert shown(measured) is None


def test_gone_with_the_variant(measured):
    (name,) = measured.variants(REPO, COMMIT)
    measured.remove_variant(REPO, COMMIT, name, 0, may_all=True)
    assert not (measured.layout.repo(REPO) / "quality").exists()
    assert measured.qualities.of(REPO, MADE) is None
