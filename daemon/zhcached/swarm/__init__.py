"""A BitTorrent swarm of the site's machines: torrents of blobs, and the process that is in them."""
