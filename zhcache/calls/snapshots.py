"""What a client can ask about snapshots: what is held, where, kept by what, and taken in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zhcache import resources
from zhcache.calls.calls import Calls
from zhcache.channel import LONG_S
from zhcache.errors import NotFound
from zhcache.export import Exported, check_target, export
from zhcache.lease import Lease
from zhcache.protocol import messages
from zhcache.protocol.names import parse_repo
from zhcache.protocol.variants import Quality, QualityRequest
from zhcache.results import checked_path


class SnapshotCalls(Calls):
    """The part of ``Client`` that snapshots are."""

    def snapshots(self) -> list[messages.Snapshot]:
        """Returns every snapshot in the store."""
        return self._line().call("GET", "/v1/snapshots", messages.Snapshots).snapshots

    def show(
        self, repo: str, *, variant: str | None = None, revision: str | None = None
    ) -> messages.SnapshotDetail:
        """Returns one snapshot, or a variant of it, with its files.

        Raises:
            NotFound: Not held.
        """
        query = resources.query(revision=revision, variant=variant)
        where = resources.at("snapshots", repo)
        return self._line().call("GET", where, messages.SnapshotDetail, query=query)

    def settled(self, repo: str, revision: str | None) -> str | None:
        """Returns the commit that a revision means in the store, which no hub need be asked for.

        ``revision`` itself where that is not in the store.

        Raises:
            ZhcacheError: What the daemon reported.
        """
        try:
            return self.show(repo, revision=revision).commit
        except NotFound:
            return revision

    def path(self, repo: str, *, variant: str | None = None, revision: str | None = None) -> Path:
        """Returns the folder of a snapshot, checked to hold what ``from_pretrained`` reads.

        Raises:
            NotFound: Not held, or not all of it, or no such variant.
            IntegrityError: A file of it is gone from the disk or has another size.
        """
        return checked_path(self.show(repo, variant=variant, revision=revision), variant)

    def remove(
        self, repo: str, *, revision: str | None = None, variant: str | None = None
    ) -> messages.Removed:
        """Lets a repository go, one revision of it, or a variant alone; ``gc`` frees the bytes.

        Raises:
            Busy: Leased; names the holders.
        """
        query = resources.query(revision=revision, variant=variant)
        # By a name of its own: a daemon that knows of no variants must not remove the whole.
        where = resources.at("snapshots" if variant is None else "variants", repo)
        return self._line().call("DELETE", where, messages.Removed, query=query, timeout_s=LONG_S)

    def keep_quality(self, repo: str, commit: str, variant: str, quality: Quality) -> Quality:
        """Has the store keep what was measured of a variant; returns it as it is kept.

        Raises:
            NotFound: The variant is not held.
            NotPermitted: Another user brought the model here.
        """
        body = QualityRequest(repo=repo, commit=commit, variant=variant, quality=quality)
        return self._line().call("POST", "/v1/quality", Quality, body=body)

    def pin(self, repo: str) -> None:
        """Protects a repository from being removed."""
        self._line().send("PUT", resources.at("pins", repo))

    def unpin(self, repo: str) -> None:
        """Takes that protection back."""
        self._line().send("DELETE", resources.at("pins", repo))

    def lock(self, repos: Sequence[str]) -> messages.LockFile:
        """Returns the commits and hashes of what is held of ``repos``."""
        for repo in repos:
            parse_repo(repo)
        body = messages.LockRequest(repos=list(repos))
        return self._line().call(
            "POST", "/v1/locks", messages.LockFile, body=body, timeout_s=LONG_S
        )

    def lease(self, repo: str, *, variant: str | None = None, revision: str | None = None) -> Lease:
        """Returns a lease on a snapshot that is held: it stays while the lease lives.

        Raises:
            NotFound: Not held.
        """
        resources.check(repo, revision)
        request = messages.LeaseRequest(repo=repo, revision=revision, variant=variant)
        return Lease(self._line(), request)

    def import_folder(self, request: messages.ImportRequest, files: Sequence[Path]) -> messages.Job:
        """Hands over open files as a snapshot and returns the job that takes them in.

        Args:
            request: What they are.
            files: Where each of ``request.files`` is now, in the same order.
        """
        from zhcache.handover import hand_over

        resources.check(request.repo, request.revision)
        self._line()
        return hand_over(self.socket, request, files)

    def import_checkpoint(
        self,
        file: Path,
        *,
        repo: str | None = None,
        like: str | None = None,
        revision: str | None = None,
    ) -> messages.Job:
        """Hands over a whole model in one safetensors file; returns the job that takes it in.

        Args:
            file: Stays where it is.
            repo: What it is to be called; ``local/`` and its name if nothing is said.
            like: Whose configurations, tokenizers and scheduler it gets; told by its kind else.
            revision: The branch that points at it, else ``main``.
        """
        from zhcache.handover import checkpoint, hand_over

        request, real = checkpoint(file, repo, like, revision)
        self._line()
        return hand_over(self.socket, request, [real])

    def export(self, repo: str, folder: str | Path, *, revision: str | None = None) -> Exported:
        """Copies a snapshot to a new plain folder, under a lease.

        Raises:
            NotFound: No such snapshot.
            UsageError: The folder is not empty.
            ZhcacheError: The disk failed.
        """
        target = Path(folder).expanduser().absolute()
        check_target(target)
        with self.lease(repo, revision=revision) as lease:
            held = self.show(repo, revision=lease.granted.commit)
            done = export(lease.path, held.files, target)
        done.commit = held.commit
        return done
