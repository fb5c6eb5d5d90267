"""Resident pipelines: workers that hold one, and the calls that clients make of them."""
