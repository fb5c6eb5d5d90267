"""Benchmarks that need a GPU. Each says so and ends where there is none."""
