"""The API on the Unix socket: one file for each resource."""
