"""What a client can ask about what is warm: seen, made so, let go."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from zhcache import resources
from zhcache.calls.calls import Calls
from zhcache.channel import LONG_S
from zhcache.protocol import messages, residency
from zhcache.protocol.names import parse_repo


class ResidencyCalls(Calls):
    """The part of ``Client`` that warm models are."""

    def resident(self) -> list[messages.Resident]:
        """Returns what is leased or warm."""
        return self._line().call("GET", "/v1/resident", messages.Residents).resident

    def device(self, name: str) -> messages.Device:
        """Returns the device that ``name`` means to the daemon.

        Args:
            name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a GPU's UUID.

        Raises:
            UsageError: There is no such device; the hint names those there are.
        """
        return self._line().call("GET", f"/v1/devices/{quote(name, safe='')}", messages.Device)

    def warm(
        self,
        repo: str,
        *,
        revision: str | None = None,
        variant: str | None = None,
        device: str = "auto",
        mode: Literal["attach", "resident"] = "attach",
        keep_s: float | None = None,
    ) -> messages.Job:
        """Starts to make a held snapshot warm; ``wait`` follows the job.

        Args:
            repo: ``OWNER/NAME``.
            revision: Branch, tag or commit; None is the default branch.
            variant: Which variant.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a GPU's UUID.
            mode: ``resident`` is a pipeline in a worker, ``attach`` its weights alone.
            keep_s: How long in seconds; None as configured, 0 until it is stopped.
        """
        resources.check(repo, revision)
        request = residency.WarmRequest(
            repo=repo, revision=revision, variant=variant, device=device, mode=mode, keep=keep_s
        )
        return self._line().call("POST", "/v1/warm", messages.Job, body=request)

    def unload(
        self,
        repo: str,
        *,
        variant: str | None = None,
        device: str | None = None,
        force: bool = False,
    ) -> residency.Stopped:
        """Lets go what is warm of a repository and not in use, or all of it if ``force``.

        Raises:
            Busy: Some of it is in use; names the holders.
            NotFound: Nothing of it is warm.
        """
        parse_repo(repo)
        request = residency.StopRequest(repo=repo, variant=variant, device=device, force=force)
        return self._line().call(
            "POST", "/v1/unload", residency.Stopped, body=request, timeout_s=LONG_S
        )
