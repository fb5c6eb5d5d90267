"""Variants: what becomes of a snapshot's weights, by which recipe, and the workers that do it."""
