"""A hundred thousand files: what a user waits for stays quick. The limits are lax."""

import time

import pytest

from harness.storekit import Clock, open_store
from zhcached.store import records
from zhcached.store.blobs import Identity
from zhcached.store.snapshots import Manifest, ManifestFile

REPOS, FILES = 20, 5000


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Rows for 100,000 blobs in 20 snapshots; 1,000 blobs more are unused."""
    root = tmp_path_factory.mktemp("big") / "store"
    store = open_store(root, Clock())
    identity = Identity(1000, 1, 1, 1)
    with store.catalog.write() as db:
        for repo in range(REPOS):
            files = tuple(
                ManifestFile(f"part/{n:05}.bin", 1000, f"{repo:04x}{n:060x}") for n in range(FILES)
            )
            manifest = Manifest(
                repo=f"lab/m{repo}",
                commit=f"{repo:040x}",
                created=1.0,
                source="hub",
                trust="quorum",
                uid=0,
                files=files,
            )
            records.put_manifest(db, manifest, root.stat())
            db.conn.execute(
                "INSERT INTO refs VALUES (?,?,?)", (f"lab/m{repo}", "main", f"{repo:040x}")
            )
            names = [file.sha256 for file in files]
            names += [f"ffff{repo:04x}{n:056x}" for n in range(50)]
            records.put_blobs(
                db, [records.BlobRow(name, identity, 1.0, 1.0, "", 0.0) for name in names]
            )
    yield store
    store.close()


def seconds(call):
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def test_ls_stays_quick_with_a_hundred_thousand_files(big):
    found, took = seconds(big.snapshots)
    assert (len(found), found[0].files_count, found[0].complete) == (REPOS, FILES, True)
    assert took < 3.0


def test_gc_dry_run_stays_quick_with_a_hundred_thousand_files(big):
    report, took = seconds(lambda: big.gc(dry_run=True))
    assert len(report.kept) == REPOS + 1
    assert sum(item.bytes for item in report.kept) == (REPOS * FILES + REPOS * 50) * 1000
    assert took < 5.0


def test_du_stays_quick_with_a_hundred_thousand_files(big):
    report, took = seconds(big.space_report)
    assert {(r.bytes, r.bytes_own) for r in report.repos} == {(FILES * 1000, FILES * 1000)}
    assert took < 5.0
