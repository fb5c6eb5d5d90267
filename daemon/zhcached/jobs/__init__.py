"""Work in progress and past: what is asked of the daemon and takes time."""
