"""What ``[swarm]`` may say, and the source that a swarm is to everybody else."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from zhcached.config.tables import Config, SourceConfig, SwarmConfig

NAME = "swarm"
_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})")


def swarm_place(listen: str) -> tuple[str, int]:
    """Returns the one address that a swarm's process uses, and its port; 0 is any free one. Pure.

    Raises:
        ValueError: It is not ``ADDRESS:PORT``, stands for all addresses, or not for one that others
            reach: link-local ones need an interface's name, which peers cannot tell each other.
    """
    found = _PLACE.fullmatch(listen)
    if found is None or int(found["port"]) > 65535:
        raise ValueError(f'swarm.listen {listen!r} is not as "10.0.0.2:6881"')
    address = ipaddress.ip_address(found["six"] or found["four"])
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"swarm.listen {listen!r} is no address of one interface")
    if address.is_link_local or getattr(address, "ipv4_mapped", None):
        raise ValueError(f"swarm.listen {listen!r} is no address that other machines connect to")
    return str(address), int(found["port"])


def swarm_networks(config: SwarmConfig) -> list[tuple[str, str]]:
    """Returns the first and the last address of each network that may take part. Pure.

    Raises:
        ValueError: One is no network.
    """
    networks = [ipaddress.ip_network(text) for text in config.networks]
    return [(str(net[0]), str(net[-1])) for net in networks]


def fault_of_swarm(config: SwarmConfig, sources: Sequence[SourceConfig]) -> str | None:
    """Returns why ``[swarm]`` cannot be meant, or None. Pure."""
    if any(source.kind == "swarm" for source in sources):
        return "kind swarm is no source of its own: [swarm] enabled = true makes it one"
    if config.enabled and any(source.name == NAME for source in sources):
        return f"a source is named {NAME}, as the swarm itself is"
    if not config.listen:
        return "swarm.web_seed needs swarm.listen" if config.web_seed else None
    try:
        swarm_place(config.listen)
        swarm_networks(config)
    except ValueError as error:
        return str(error)
    if config.enabled and not config.networks:
        return 'swarm.networks is missing: who may take part, as ["10.0.0.0/16"]'
    return None


def with_swarm(config: Config) -> tuple[SourceConfig, ...]:
    """Returns the sources, with the swarm as one of them where this machine is in one. Pure."""
    swarm = config.swarm
    if not (swarm.enabled and swarm.listen):
        return config.sources
    return (*config.sources, SourceConfig(NAME, "swarm", f"swarm://{swarm.listen}"))
