"""Which bytes are here: blobs as they were recorded, and read again where somebody touched them."""

from __future__ import annotations

from zhcached.store import listing
from zhcached.store.checks import Checks
from zhcached.store.context import Context
from zhcached.store.digest import Committed, Promise
from zhcached.store.turns import Turns


class Presence:
    """Tells what is here and sound. Thread-safe; made by ``Store``.

    Args:
        context: The store's.
        checks: Reads blobs again.
    """

    def __init__(self, context: Context, checks: Checks) -> None:
        self._catalog = context.catalog
        self._blobs = context.blobs
        self._leases = context.leases
        self._checks = checks
        self._rereads = Turns()

    def find(self, promise: Promise, owner_job: str | None = None) -> Committed | None:
        """Returns the promised bytes if they are here; with ``owner_job`` they are held for it.

        A blob that somebody touched since it was recorded is read again first.

        Raises:
            StoreDamaged: The index is damaged.
            ZhcacheError: The disk failed.
        """
        for sha256 in listing.candidates(self._catalog, promise):
            if owner_job is not None:
                self._leases.hold(owner_job, sha256)
            if not self.is_sound(sha256, promise.size):
                continue
            git_sha1 = promise.git_sha1
            if git_sha1 is not None and not listing.is_known_as(self._catalog, sha256, git_sha1):
                git_sha1 = self._blobs.hash(sha256, want_git=True).git_sha1
            if git_sha1 == promise.git_sha1:
                return Committed(sha256, git_sha1, promise.size)
        return None

    def is_sound(self, sha256: str, size: int) -> bool:
        """Tells whether a blob is here and as it was recorded; one that was touched is read."""
        found = self._as_recorded(sha256, size)
        if found is None:
            # Many may ask for a model at once whose files were touched: each is read once.
            with self._rereads.of(sha256):
                found = self._as_recorded(sha256, size)
                if found is None:
                    is_sound = bool(self._checks.recheck(sha256))
                    found = is_sound and self._as_recorded(sha256, size) is not False
        return found

    def _as_recorded(self, sha256: str, size: int) -> bool | None:
        """Tells whether a blob is here with that size; None where only reading it would tell."""
        recorded = listing.recorded(self._catalog, sha256)
        if recorded is None:
            return False
        identity, is_suspect = recorded
        if is_suspect or self._blobs.identity(sha256) != identity:
            return None
        return identity.size == size
