"""What is on this machine already becomes a snapshot: folders, caches, disks, checkpoints."""
