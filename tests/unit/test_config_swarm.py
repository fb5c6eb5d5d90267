"""[swarm]: what may be said of it, and the source that it is."""

import pytest

from zhcache.errors import UsageError
from zhcached.config import load
from zhcached.config.swarming import swarm_networks, with_swarm

GOOD = 'enabled = true\nlisten = "10.0.0.2:6881"\nnetworks = ["10.0.0.0/16"]\n'
PEER = '[[source]]\nname = "NAME"\nkind = "KIND"\nendpoint = "http://10.0.0.3:8590"\n'


def read(tmp_path, swarm, more=""):
    path = tmp_path / "config.toml"
    path.write_text(f"[swarm]\n{swarm}{more}")
    return load([path], {})


def test_swarm_is_off_and_no_source_unless_it_listens(tmp_path):
    for text in ("", "enabled = true\n", GOOD.replace("true", "false")):
        config = read(tmp_path, text)
        assert with_swarm(config) == config.sources
    config = read(tmp_path, GOOD + 'rate = "1MiB"\n')
    assert config.swarm.rate == 2**20
    *others, swarm = with_swarm(config)
    assert (tuple(others), swarm.name, swarm.is_near) == (config.sources, "swarm", True)
    assert swarm_networks(config.swarm) == [("10.0.0.0", "10.0.255.255")]


@pytest.mark.parametrize(
    ("swarm", "more", "reason"),
    [
        (GOOD.replace("10.0.0.2:6881", "0.0.0.0:6881"), "", "no address of one interface"),
        (GOOD.replace("10.0.0.2:6881", "[::]:6881"), "", "no address of one interface"),
        (GOOD.replace("10.0.0.2:6881", "[fe80::1]:6881"), "", "that other machines connect to"),
        (GOOD.replace("10.0.0.2", "[::ffff:10.0.0.2]"), "", "that other machines connect to"),
        (GOOD.replace("10.0.0.2:6881", "host:6881"), "", "is not as"),
        (GOOD.replace("10.0.0.2:6881", "10.0.0.2:70000"), "", "is not as"),
        (GOOD.replace("10.0.0.0/16", "10.0.0.0/99"), "", "10.0.0.0/99"),
        ('enabled = true\nlisten = "10.0.0.2:6881"\n', "", "networks is missing"),
        ("enabled = true\nweb_seed = true\n", "", "web_seed needs swarm.listen"),
        (GOOD, PEER.replace("NAME", "swarm").replace("KIND", "peer"), "as the swarm itself is"),
        (GOOD, PEER.replace("KIND", "swarm"), "no source of its own"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, swarm, more, reason):
    with pytest.raises(UsageError, match=reason):
        read(tmp_path, swarm, more)
