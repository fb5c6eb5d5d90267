"""Pickles turned into safetensors of the same tensors, which are kept in their place.

Nothing of a pickle is read here: a worker does that, and says what it found by sending it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import msgspec

from zhcache.errors import IntegrityError
from zhcache.protocol.conversion import Unpickle
from zhcache.protocol.messages import FileProgress, Trust
from zhcache.protocol.names import RepoPath
from zhcached.convert.places import Places
from zhcached.convert.runner import STALL_S, Conversion, Converted
from zhcached.convert.variants import Picture, Show
from zhcached.convert.weights import MAX_INDEX, base
from zhcached.errors import StoreDamaged
from zhcached.residency.launch.launch import Launcher
from zhcached.sources.pickles import is_index, is_pickle, safe_path
from zhcached.store.snapshots import ManifestFile, Original
from zhcached.store.store import Store


class Pickle(msgspec.Struct, frozen=True):
    """A pickle, or the index of several, as it lies in the store: verified, and not published."""

    path: RepoPath
    size: int
    sha256: str
    trust: Trust

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"{self.path} to safetensors"

    @property
    def output(self) -> RepoPath:
        """What it becomes."""
        return safe_path(self.path)

    def request(self, folder: str) -> Unpickle:
        """Returns what the worker is asked, for the blob in ``folder``."""
        return Unpickle(
            blob=f"{folder}/{self.sha256}",
            size=self.size,
            path=self.path,
            output=base(self.output),
        )

    def becomes(self, size: int, sha256: str) -> ManifestFile:
        """Returns the file that stands for it."""
        original = Original(self.path, self.size, self.sha256)
        return ManifestFile(self.output, size, sha256, trust=self.trust, converted_from=original)


class Pickles:
    """Converts pickles. Thread-safe; ``convert`` blocks for as long as it takes.

    Args:
        store: Where they are.
        launcher: Starts workers.
        places: For them.
        make_room: Makes sure that so many bytes fit, or raises NoSpace.
        stall_s: How long a worker may be silent.
    """

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        places: Places,
        *,
        make_room: Callable[[int], None],
        stall_s: float = STALL_S,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._places = places
        self._make_room = make_room
        self._stall_s = stall_s

    def convert(
        self, found: Sequence[Pickle], job: str, show: Show, made: list[ManifestFile]
    ) -> None:
        """Adds to ``made`` the file that stands for each pickle, those of before an error too.

        Their blobs are held for ``job`` until ``leases.release_holds``.

        Args:
            found: Pickles and their indexes.
            job: The job that wants them.
            show: Told how far it is; what it raises ends the work.
            made: Is added to, from several threads.

        Raises:
            UnsafeWeights: One of them holds something else than tensors.
            IntegrityError: One is damaged, or an index does not tell what its shards hold.
            WorkerDied: A worker ended early.
            NoSpace: No room.
            ZhcacheError: No worker can be started; or the disk failed.
        """
        pickles = [one for one in found if not is_index(one.path)]
        self._make_room(sum(one.size for one in pickles))
        conversions = [
            Conversion(
                one,
                str(self._store.layout.blob(one.sha256).parent),
                job,
                launcher=self._launcher,
                intake=self._store.intake,
                stall_s=self._stall_s,
            )
            for one in sorted(pickles, key=lambda one: one.size, reverse=True)
        ]

        def ended(one: Pickle, converted: Converted) -> None:
            file = converted.files[base(one.output)]
            made.append(one.becomes(file.size, file.sha256))

        done = self._places.run(conversions, ended, lambda: show(_picture(conversions)))
        names = {
            str(one.output): {told.name for told in chain(*converted.tensors.values())}
            for one, converted in done
        }
        for one in found:
            if is_index(one.path):
                content = renamed(one.path, self._read(one), names)
                blob = self._store.intake.put(content, job)
                made.append(one.becomes(blob.size, blob.sha256))

    def _read(self, index: Pickle) -> bytes:
        if index.size > MAX_INDEX:
            raise _unusable(index.path, f"{index.size} bytes")
        try:
            return self._store.layout.blob(index.sha256).read_bytes()
        except OSError as error:
            raise StoreDamaged(reason=f"{index.path}: {error}") from error


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, object] = {}


def renamed(path: str, content: bytes, tensors: Mapping[str, set[str]]) -> bytes:
    """Returns the index of shards that are pickles as that of what they became.

    Args:
        path: Its own.
        content: Its JSON.
        tensors: The names that each converted shard holds, by the path that it has now.

    Raises:
        IntegrityError: It cannot be read, or names what a shard does not hold.
    """
    try:
        read = msgspec.json.decode(content, type=_Index)
    except (ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from error
    folder = path.rpartition("/")[0]
    weight_map: dict[str, str] = {}
    told: dict[str, set[str]] = defaultdict(set)
    for name, shard in read.weight_map.items():
        if "/" in shard or not is_pickle(shard):
            raise _unusable(path, f"{shard[:100]!r} is no shard")
        weight_map[name] = safe_path(shard)
        told[f"{folder}/{weight_map[name]}".lstrip("/")].add(name)
    for shard, held in tensors.items():
        if lacking := told[shard] - held:
            raise _unusable(path, f"{min(lacking)[:100]!r} is not in {shard}")
    made = {"metadata": read.metadata, "weight_map": weight_map}
    return msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"


def _unusable(path: str, reason: str) -> IntegrityError:
    return IntegrityError(
        "the shard index {path} cannot be used: {reason}",
        hint="it was published so and the store is sound: take another revision",
        path=path,
        reason=reason,
    )


def _picture(conversions: Sequence[Conversion[Pickle]]) -> Picture:
    parts = tuple(
        FileProgress(path=c.work.path, size=c.work.size, done=c.bytes_done) for c in conversions
    )
    now = ", ".join(part.path for part in parts if 0 < part.done < part.size)
    return Picture(
        note=f"converting {now or 'pickles'} to safetensors",
        bytes_done=sum(part.done for part in parts),
        bytes_total=sum(part.size for part in parts),
        components=tuple(part for part in parts if part.done < part.size),
    )
