"""What a client can ask about the gateway."""

from __future__ import annotations

from collections.abc import Iterator

from zhcache.calls.calls import Calls
from zhcache.protocol.gateway import GatewayRequest, GatewayState


class GatewayCalls(Calls):
    """The part of ``Client`` that the gateway is."""

    def gateway(self) -> GatewayState:
        """Returns where other machines are served, and what was done for them."""
        return self._line().call("GET", "/v1/gateway", GatewayState)

    def serve(self, request: GatewayRequest) -> Iterator[GatewayState]:
        """Serves other machines while this is iterated, and yields its state now and then.

        With ``request.detach`` it stays on, and there is one state.

        Raises:
            Busy: It serves already, or another program has the port.
            NotPermitted: The daemon is another user's.
            UsageError: The address, the rate or the token cannot be used.
        """
        channel = self._line()
        with channel.open("POST", "/v1/gateway", body=request) as answer:
            yield from channel.lines(answer, GatewayState)

    def stop_serving(self) -> GatewayState:
        """Ends serving, whoever began it."""
        return self._line().call("DELETE", "/v1/gateway", GatewayState)
