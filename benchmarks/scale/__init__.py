"""Many machines: what a model costs upstream and in time, by formula and in network namespaces."""
