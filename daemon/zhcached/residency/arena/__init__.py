"""Arenas: components' weights in memory that is handed over by descriptor."""
