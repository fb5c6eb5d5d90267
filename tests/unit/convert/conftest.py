import contextlib

import pytest

from harness.convertkit import ConvertLauncher, Pictures, variants_of
from harness.fillkit import Control, put_pipeline
from harness.storekit import COMMIT, Clock, open_store
from zhcache.protocol.names import parse_repo

REPO = parse_repo("lab/pipe")
UNET = bytes(range(256)) * 40
VAE = b"v" * 3000


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def control(tmp_path):
    return Control(tmp_path / "control")


@pytest.fixture
def store(tmp_path, clock):
    with contextlib.closing(open_store(tmp_path / "store", clock)) as opened:
        put_pipeline(opened, str(REPO), COMMIT, unet=UNET, vae=VAE)
        yield opened


@pytest.fixture
def launcher(control):
    with contextlib.closing(ConvertLauncher(control)) as made:
        yield made


class Workshop:
    """Variants of one pipeline, and what is told of their making."""

    def __init__(self, store, clock, launcher):
        self.store, self.clock, self.launcher = store, clock, launcher
        self.repo, self.unet, self.vae = REPO, UNET, VAE
        self.show = Pictures()
        self.renew()

    def renew(self, **settings):
        self.variants = variants_of(self.store, self.clock, self.launcher, **settings)

    @property
    def base(self):
        return self.store.resolve(REPO, COMMIT)

    def make(self, name="fp16", job="job", show=None):
        try:
            return self.variants.make(self.base, name, job, 7, show or self.show)
        finally:
            self.store.leases.release_holds(job)

    def content(self, manifest, path):
        (file,) = [file for file in manifest.files if file.path == path]
        return self.store.layout.blob(file.sha256).read_bytes()

    @property
    def scraps(self):
        """What lies about that should not, once nothing is being made."""
        layout = self.store.layout
        return [p.name for folder in (layout.ingests, layout.conversions) for p in folder.iterdir()]


@pytest.fixture
def shop(store, clock, launcher):
    return Workshop(store, clock, launcher)
