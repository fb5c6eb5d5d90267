"""An S3 store of the site: blobs by their digests, and no word on what a repository is.

Whether it has a blob is asked by the blob's first byte: an answer to HEAD has no body, and only
there S3 says whether it is the blob that is missing, the bucket, or a right of the key's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from zhcache.protocol.messages import SourceKind
from zhcached.clock import Clock, SystemClock
from zhcached.config import SourceConfig
from zhcached.errors import KeyRefused, RemoteError, StatusError, TransportError
from zhcached.sources.s3_bucket import Bucket
from zhcached.transport.http import Target, Transport

AT_ONCE: Final = 16
NOWHERE: Final = "0" * 64
"""The digest of nothing that anybody will find."""
SKEW_S: Final = 300.0
"""Signatures count for 15 minutes; a clock that is this wrong is worth a word before that."""
_MAX_ANSWER: Final = 64 * 2**10
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>")


class S3Source:
    """One bucket as a source; see ``base.Tier``.

    Args:
        config: The source.
        transport: The way there.
        environ: Has the key's two variables.
        clock: For deadlines.
    """

    kind: SourceKind = "s3"

    def __init__(
        self,
        config: SourceConfig,
        *,
        transport: Transport,
        environ: Mapping[str, str],
        clock: Clock | None = None,
    ) -> None:
        self.name = config.name
        self.bucket = Bucket(config, environ)
        self.origin = self.bucket.origin
        self._transport = transport
        self._clock: Clock = clock or SystemClock()

    def locate_blob(self, sha256: str) -> Target:
        """Returns the address of a digest, signed for some minutes.

        Raises:
            KeyRefused: The key is not there.
        """
        return Target(self.bucket.address(sha256))

    def probe(self, deadline_s: float) -> None:
        """Asks for what is not there, as whoever has the key.

        Raises:
            KeyRefused: It is not answered with this key.
            RemoteError: The store cannot be reached, or has no such bucket.
        """
        self._has(NOWHERE, deadline_s)

    def holding(self, digests: Collection[str], deadline_s: float) -> set[str]:
        """Returns those of ``digests`` that are in the bucket, as far as the time allows.

        Raises:
            KeyRefused: It is not answered with this key.
            RemoteError: No answer came at all.
        """
        asking = _Asking(digests)
        until = self._clock.monotonic() + deadline_s

        def work() -> None:
            while (sha256 := asking.next()) is not None:
                left_s = until - self._clock.monotonic()
                try:
                    is_held = self._has(sha256, left_s)
                except RemoteError as error:
                    asking.failed(error)
                else:
                    asking.answered(sha256, is_held=is_held)

        for _ in range(min(AT_ONCE, len(digests))):
            # Daemon threads: one that hangs in a resolver must not keep the process from ending.
            threading.Thread(target=work, name="s3", daemon=True).start()
        return asking.outcome(deadline_s)

    def _has(self, sha256: str, deadline_s: float) -> bool:
        target = Target(self.bucket.address(sha256), headers={"Range": "bytes=0-0"})
        try:
            self._transport.fetch_document(target, max_bytes=_MAX_ANSWER, deadline_s=deadline_s)
        except StatusError as error:
            if error.status == 416:
                # It is there, and empty.
                return True
            if error.status == 404 and _code_of(error) != "NoSuchBucket":
                return False
            raise self._told(error) from error
        return True

    def _told(self, error: StatusError) -> RemoteError:
        """Returns the error in the words of S3, which says more than a status."""
        code, config = _code_of(error), self.bucket.config
        told = f"{error}: {code}" if code else str(error)
        if error.status in (401, 403):
            shown = f"the key in {config.key_env}" if config.key_env else "those who show no key"
            reason = f"{told}: {shown} may not read {config.bucket}"
            if config.key_env and (off_s := self._clock_off_s(error)) > SKEW_S:
                reason = f"{told}: its clock and this machine's are {off_s / 60:.0f} minutes apart"
            return KeyRefused(reason, source=self.name)
        return StatusError(
            told,
            status=error.status,
            retry_after_s=error.retry_after_s,
            source=self.name,
            headers=error.headers,
            body=error.body,
        )

    def _clock_off_s(self, error: StatusError) -> float:
        """Returns how far this machine's clock is from the store's; 0 where it tells no time."""
        try:
            told = parsedate_to_datetime(error.headers.get("date", ""))
        except (TypeError, ValueError):
            return 0.0
        return abs(told.timestamp() - self._clock.wall())


def _code_of(error: StatusError) -> str:
    found = _CODE.search(error.body)
    return found[1].decode() if found else ""


class _Asking:
    """The digests of one question, and what was answered. Thread-safe.

    An error before any answer ends it: what is wrong with the store or the key is wrong for all.
    """

    def __init__(self, digests: Collection[str]) -> None:
        self._left = sorted(digests, reverse=True)
        self._running = 0
        self._changed = threading.Condition()
        self._held: set[str] = set()
        self._answers = 0
        self._error: RemoteError | None = None

    def next(self) -> str | None:
        """Returns a digest to ask for; None when there is none or asking is of no use."""
        with self._changed:
            if not self._left or self._is_hopeless():
                return None
            self._running += 1
            return self._left.pop()

    def answered(self, sha256: str, *, is_held: bool) -> None:
        """Takes an answer."""
        with self._changed:
            self._answers += 1
            if is_held:
                self._held.add(sha256)
            self._end()

    def failed(self, error: RemoteError) -> None:
        """Takes an error."""
        with self._changed:
            self._error = self._error or error
            self._end()

    def outcome(self, wait_s: float) -> set[str]:
        """Waits for the answers and returns what is held.

        Raises:
            RemoteError: No answer came.
        """
        with self._changed:
            is_over = self._changed.wait_for(self._is_over, wait_s)
            if self._answers or (is_over and self._error is None):
                return set(self._held)
            raise self._error or TransportError("no answer in time")

    def _is_hopeless(self) -> bool:
        return self._error is not None and not self._answers

    def _is_over(self) -> bool:
        return not self._running and (not self._left or self._is_hopeless())

    def _end(self) -> None:
        self._running -= 1
        self._changed.notify_all()
