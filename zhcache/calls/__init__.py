"""What can be asked of the daemon, a class for each kind of thing; ``Client`` is all of them."""
