"""Where models come from: hubs and mirrors, what they promise, and which of them to believe.

A source resolves a repository to a commit and a listing; it never touches the bytes. Everything
a hub says is hostile until it has passed ``listing``. What to take of a listing (``selection``),
whom to ask first (``ranking``), under which names (``alias``) and whom to believe (``trust``) are
pure decisions.
"""
