"""What index and disk say of each other, compared without either."""

from zhcached.store import differences
from zhcached.store.blobs import Identity
from zhcached.store.differences import SnapshotRow, Stamp

AS_WRITTEN = Stamp(1, 2, 3)
KEY = ("lab/tiny", "c" * 40)


def test_blobs_are_new_gone_or_touched():
    same, other = Identity(1, 2, 3, 4), Identity(1, 2, 3, 5)
    found = differences.blobs({"a": same, "b": other, "c": same}, {"b": same, "c": same, "d": same})
    assert (found.new, found.gone, found.touched) == (["a"], ["d"], ["b"])


def compared(on_disk, *, stamp=AS_WRITTEN, is_sound=True, is_removing=False):
    row = SnapshotRow(KEY, stamp, is_sound, is_removing)
    found = differences.snapshots(on_disk, [row])
    return bool(found.half_removed), bool(found.vanished), bool(found.changed)


def test_snapshot_is_settled_only_as_its_rows_and_its_manifest_were_written():
    here = {KEY: AS_WRITTEN}
    assert compared(here) == (False, False, False)
    assert compared(here, stamp=Stamp(1, 2, 4)) == (False, False, True)
    assert compared(here, is_sound=False) == (False, False, True)
    assert compared({}) == (False, True, False)
    unknown = differences.snapshots(here, [])
    assert unknown.changed == [KEY]


def test_removal_cut_short_is_no_damage_and_nothing_to_record():
    assert compared({KEY: Stamp(9, 9, 9)}, is_sound=False, is_removing=True) == (True, False, False)
    assert compared({}, is_removing=True) == (True, False, False)
