"""Weights that exist only as pickle, in a prefetch that allows them: fetched, converted, let go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zhcache.errors import IntegrityError, UnsafeWeights
from zhcache.protocol.names import RepoId
from zhcached.convert.pickled import Pickle, Pickles
from zhcached.convert.variants import Picture
from zhcached.errors import StoreDamaged
from zhcached.jobs import state
from zhcached.jobs.asking.brief import Brief
from zhcached.jobs.control import Control
from zhcached.jobs.fetching.gather import Gathering
from zhcached.store.snapshots import ManifestFile
from zhcached.store.store import Store


def converted_before(store: Store, repo: RepoId, commit: str) -> list[ManifestFile]:
    """Returns the files of a snapshot here that stand for pickles and whose bytes are sound."""
    try:
        manifest = store.manifests.read(repo, commit)
    except (FileNotFoundError, StoreDamaged):
        return []
    return [
        file
        for file in manifest.files
        if file.converted_from is not None and store.presence.is_sound(file.sha256, file.size)
    ]


@contextmanager
def standing_in(
    store: Store, pickles: Pickles, brief: Brief, gathering: Gathering, job: str, control: Control
) -> Iterator[list[ManifestFile]]:
    """Yields the files that stand for the pickles of a brief; the caller publishes them.

    Afterwards the pickles are let go, and what was made of them too if they turned out to be none
    that may be kept. After any other error all of it stays for the next time.

    Raises:
        ZhcacheError: As ``Pickles.convert`` does.
    """
    found = [
        Pickle(file.path, came.size, came.sha256, file.grade)
        for file in gathering.trust()
        if file.path in brief.selection.converted and (came := gathering.committed[file.path])
    ]
    made: list[ManifestFile] = []

    def show(picture: Picture) -> None:
        control.check()
        control.progress = state.Progress(
            bytes_done=picture.bytes_done,
            bytes_total=picture.bytes_total,
            files=picture.components,
            note=picture.note,
        )

    try:
        if found:
            pickles.convert(found, job, show, made)
        yield [*brief.converted, *made]
    except (UnsafeWeights, IntegrityError):
        store.release([*(one.sha256 for one in found), *(file.sha256 for file in made)])
        raise
    store.release([one.sha256 for one in found])
