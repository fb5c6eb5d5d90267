"""Tokens: read from the environment when they are needed, bound to one origin, kept nowhere."""

from __future__ import annotations

from collections.abc import Mapping

from zhcached.sources import refusals
from zhcached.transport.address import Origin
from zhcached.transport.http import Credential


class TokenSource:
    """Where one source's token comes from.

    Args:
        source: Name of the source, for errors.
        origin: The only origin the token is ever sent to.
        variable: Name of the environment variable, or None for a source without a token.
        environ: The environment, asked anew on every call.
    """

    def __init__(
        self, source: str, origin: Origin, variable: str | None, environ: Mapping[str, str]
    ) -> None:
        self._source = source
        self._origin = origin
        self.variable = variable
        self._environ = environ

    def credential(self) -> Credential | None:
        """Returns the token as a bearer credential, or None where there is none.

        Raises:
            RepoUnavailable: The variable holds what no token can be.
        """
        token = self._environ.get(self.variable, "").strip() if self.variable else ""
        if not token:
            return None
        if not token.isascii() or not token.isprintable() or " " in token:
            raise refusals.bad_token(self._source, self.variable)
        return Credential(self._origin, f"Bearer {token}")
