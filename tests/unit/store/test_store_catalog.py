import sqlite3
import threading

import pytest

from harness.storekit import REPO, TINY, open_store, publish_tiny
from zhcache.errors import IntegrityError, NoSpace
from zhcached.errors import StoreDamaged
from zhcached.store import kept
from zhcached.store.catalog import Catalog
from zhcached.store.schema import VERSION


def test_jobs_and_health_survive_a_restart(root):
    store = open_store(root)
    kept.save_job(store.catalog, "j1", "key", "prefetch", "fetching", 7, 1.0, 2.0, b"one")
    kept.save_job(store.catalog, "j2", "key", "verify", "done", 7, 1.0, 3.0, b"two")
    kept.save_job(store.catalog, "j1", "key", "prefetch", "done", 7, 1.0, 4.0, b"newer")
    kept.save_health(store.catalog, "hub", b"fine")
    store.close()
    store = open_store(root)
    assert kept.load_jobs(store.catalog) == [("j1", b"newer"), ("j2", b"two")]
    assert kept.load_jobs(store.catalog, {"fetching"}) == []
    assert kept.load_jobs(store.catalog, ["done"], limit=1) == [("j1", b"newer")]
    assert kept.delete_jobs_before(store.catalog, 3.5, ["done"]) == 1
    assert kept.load_jobs(store.catalog) == [("j1", b"newer")]
    assert kept.load_health(store.catalog) == {"hub": b"fine"}
    store.close()


def test_catalog_serves_many_threads_without_ever_being_locked(store):
    failures = []

    def work(number):
        try:
            for step in range(20):
                kept.save_job(store.catalog, f"{number}-{step}", "k", "x", "done", 0, 0.0, 0.0, b"")
                kept.load_jobs(store.catalog)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(kept.load_jobs(store.catalog)) == 160


def test_write_undoes_everything_when_it_fails_inside(store):
    with pytest.raises(ZeroDivisionError), store.catalog.write() as db:
        db.conn.execute("INSERT INTO pins VALUES ('a')")
        with store.catalog.write() as inner:
            inner.conn.execute("INSERT INTO pins VALUES ('b')")
        raise ZeroDivisionError
    assert store.catalog.rows("SELECT * FROM pins") == []


def prepared(root):
    store = open_store(root)
    publish_tiny(store)
    store.pins.pin(REPO, 7)
    seen = store.snapshots(), store.resolve(REPO, "main")
    store.close()
    return seen


def opens_whole(root, seen):
    store = open_store(root)
    assert (store.snapshots(), store.resolve(REPO, "main")) == seen
    assert store.gc().removed == []
    assert len(list(store.blobs.list())) == len(TINY)
    problems = store.problems
    store.close()
    return problems


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 1000, b"SQLite format 3\0"])
def test_damaged_index_is_set_aside_and_made_anew(root, content):
    seen = prepared(root)
    (root / "index.sqlite").write_bytes(content)
    problems = opens_whole(root, seen)
    if content:
        assert "index.sqlite.damaged-1" in problems[0]
        assert (root / "index.sqlite.damaged-1").read_bytes() == content
    assert opens_whole(root, seen) == []


@pytest.mark.parametrize("version", [VERSION + 1, 99])
def test_index_of_a_later_version_is_set_aside_untouched(root, version):
    seen = prepared(root)
    conn = sqlite3.connect(root / "index.sqlite")
    conn.execute(f"PRAGMA user_version={version}")
    conn.commit()
    conn.close()
    assert "damaged-1" in opens_whole(root, seen)[0]
    conn = sqlite3.connect(root / "index.sqlite.damaged-1")
    assert conn.execute("PRAGMA user_version").fetchone() == (version,)
    assert conn.execute("SELECT COUNT(*) FROM files").fetchone() == (len(TINY),)
    conn.close()


def test_index_of_another_programme_is_set_aside(root):
    seen = prepared(root)
    (root / "index.sqlite").unlink()
    conn = sqlite3.connect(root / "index.sqlite")
    conn.execute("CREATE TABLE blobs (x)")
    conn.execute(f"PRAGMA user_version={VERSION}")
    conn.commit()
    conn.close()
    assert "damaged-1" in opens_whole(root, seen)[0]


@pytest.mark.parametrize("step", range(25))
def test_flipped_bytes_anywhere_in_the_index_lose_nothing(root, step):
    seen = prepared(root)
    path = root / "index.sqlite"
    content = bytearray(path.read_bytes())
    for offset in range(step * 37, len(content), 25 * 37):
        content[offset] ^= 0x55
    path.write_bytes(content)
    opens_whole(root, seen)


@pytest.mark.parametrize(
    "table, column", [("files", "sha256"), ("files", "size"), ("blobs", "sha256")]
)
def test_row_that_changed_behind_sqlites_back_is_read_again_from_disk(root, table, column):
    seen = prepared(root)
    conn = sqlite3.connect(root / "index.sqlite")
    conn.execute(f"UPDATE {table} SET {column}=replace({column}, substr({column}, 3, 1), '7')")
    conn.commit()
    conn.close()
    assert opens_whole(root, seen) == []


def test_index_damaged_while_open_is_reported_and_rebuilt(store, root):
    publish_tiny(store)
    seen = store.snapshots()
    with store.catalog.read() as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        conn.execute("PRAGMA cache_size=0")
        conn.execute("PRAGMA shrink_memory")
    path = root / "index.sqlite"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(StoreDamaged) as raised:
        store.catalog.rows("SELECT * FROM files")
        store.catalog.rows("SELECT * FROM snapshots")
    assert isinstance(raised.value, IntegrityError)
    assert (raised.value.code, raised.value.hint) == ("integrity", "run `zhcache repair`")
    assert str(path) in raised.value.message
    store.rebuild()
    assert store.snapshots() == seen


def test_full_disk_in_the_index_is_no_space_and_undone(store):
    with store.catalog.read() as conn:
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        conn.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(NoSpace, match="index"):
        kept.save_health(store.catalog, "hub", b"x" * 100_000)
    with store.catalog.read() as conn:
        conn.execute("PRAGMA max_page_count=1000000")
    assert kept.load_health(store.catalog) == {}
    kept.save_health(store.catalog, "hub", b"x" * 100_000)


def test_catalog_never_mends_a_damaged_file_in_place(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / "index.sqlite").write_bytes(b"junk" * 999)
        catalog = Catalog(tmp_path / "index.sqlite")
        assert catalog.set_aside == tmp_path / f"index.sqlite.damaged-{number}"
        catalog.close()


def test_write_that_need_not_last_leaves_later_ones_as_lasting_as_before(store):
    catalog = store.catalog

    def level():
        return catalog.rows("PRAGMA synchronous")[0][0]

    full = level()
    with catalog.write(durable=False):
        assert level() < full
    assert level() == full
    with pytest.raises(ZeroDivisionError), catalog.write(durable=False):
        raise ZeroDivisionError
    assert level() == full
