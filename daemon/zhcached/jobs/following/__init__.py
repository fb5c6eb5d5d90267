"""Followed models: looked at on a schedule, fetched when they change, pruned after."""
