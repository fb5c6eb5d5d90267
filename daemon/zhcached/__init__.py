"""zhcached: the daemon that owns the store, its downloads and its leases."""
