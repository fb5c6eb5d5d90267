"""Many machines: what one model costs upstream and in time, by formula and in network namespaces."""
