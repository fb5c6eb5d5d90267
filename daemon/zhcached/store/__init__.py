"""The store: verified bytes on one disk, and the records that say what they are for.

Everything here is synchronous and thread-safe; callers on an event loop go through a thread.
``store.py`` is the door. Nothing here opens a socket or knows a hub.
"""
