"""Warm on the CPU: files of snapshots in the kernel's page cache."""
