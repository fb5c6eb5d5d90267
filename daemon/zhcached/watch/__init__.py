"""Folders that are taken in as they change, and the watch over the store's own files."""
