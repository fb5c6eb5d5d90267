"""What somebody says to have measured of a variant, which everybody is shown."""

import msgspec
import pytest

from zhcache.errors import UsageError
from zhcache.protocol.variants import Quality
from zhcached.api.quality import check

FOUND = Quality(
    pairs=8, psnr=None, psnr_least=31.5, ssim=1.0000001, ssim_least=-0.2, latent_cosine=None,
    latent_cosine_least=-1.0, seconds=0.0, seconds_source=2.5, steps=4, width=512, height=768,
)  # fmt: skip


def test_what_can_be_measured_is_taken():
    check(FOUND)


@pytest.mark.parametrize(
    "told",
    [
        {"pairs": 10**4000},
        {"pairs": 0},
        {"steps": -1},
        {"width": 10**12},
        {"psnr": 1e308},
        {"ssim_least": 2.0},
        {"latent_cosine": -3.0},
        {"seconds": -1.0},
        {"seconds_source": 1e300},
    ],
    ids=lambda told: next(iter(told)),
)
def test_what_cannot_is_refused_by_name(told):
    (name,) = told
    with pytest.raises(UsageError, match=f"measured as {name}$"):
        check(msgspec.structs.replace(FOUND, **told))
