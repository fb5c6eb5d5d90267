"""Bytes from sources into ingests: ranges over several connections and sources, then the proof.

What is decided (is this answer acceptable, what follows an error, who takes which stretch) is
pure and apart from what acts. Nothing here knows hubs: an ``Offer`` says where to ask.
"""
