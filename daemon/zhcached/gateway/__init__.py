"""The gateway: hub protocols over TCP for other machines, served from this store."""
