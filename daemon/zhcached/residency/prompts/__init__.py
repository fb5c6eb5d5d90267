"""Models that read Chinese prompts for others: which snapshots are such, and which fit a model."""
