"""Models that lie on the disk already: caches of other tools, disks of ours, plain folders.

Names, links and sizes are read, never contents.
"""
